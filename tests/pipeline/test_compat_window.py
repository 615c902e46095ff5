"""`compat="diffusers"` with `mask_padding`: the window, and what is pasted back, as in diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image, ImageFilter

import sdxl

# windows of other proportions than the work: at the image's border, with odd sides, of a soft mask
WINDOWS: dict[str, tuple[tuple[int, int, int, int], int, float]] = {
    "inside": ((31, 22, 50, 37), 3, 0),
    "as wide as the image": ((2, 30, 87, 41), 8, 0),
    "soft": ((20, 5, 41, 50), 1, 2),
}


@pytest.mark.parametrize("channels", [4, pytest.param(9, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", WINDOWS)
def test_mask_padding(
    channels: int,
    case: str,
    tiny_pipe: sdxl.Pipeline,
    error: Any,
    request: pytest.FixtureRequest,
) -> None:
    """The latents, and the image after the paste within a rounding of 8 bits."""
    box, padding, blur = WINDOWS[case]
    source, mask, last = tiny.picture(1, 90, 61), Image.new("L", (90, 61)), {}
    mask.paste(255, box)
    mask = mask.filter(ImageFilter.GaussianBlur(blur))
    size = {"height": 72, "width": 64}
    common: dict[str, Any] = {"prompt": "a red cat", "image": source, "strength": 0.8, "guidance_scale": 5.0, **size}
    pipe = tiny.inpainting(channels)
    own_pipe = tiny_pipe if channels == 4 else request.getfixturevalue("inpainting_pipe")
    pipe.scheduler = tiny.scheduler("euler", "leading")

    def note(pipe: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        last.update(tensors)
        return {}

    generators = tiny.generators([5])
    theirs: dict[str, Any] = {"mask_image": mask, "padding_mask_crop": padding, "num_inference_steps": 3}
    image = pipe(generator=generators, callback_on_step_end=note, **theirs, **common).images[0]
    mine = common | {"mask": mask, "mask_padding": padding, "steps": 3, "seed": 5, "progress": False}
    assert error(own_pipe(**mine, compat="diffusers", output="latent").images, last["latents"]) < 1e-4
    result = np.asarray(own_pipe(**mine, compat="diffusers").images[0]).astype(int)
    assert abs(result - np.asarray(image)).max() <= 1
    assert error(own_pipe(**mine, output="latent").images, last["latents"]) > 1e-3
