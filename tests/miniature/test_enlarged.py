"""Hires fix on the miniature, judged from the pixels (`make proof-hires` does more)."""

from __future__ import annotations

from typing import Any

import hires
import numpy as np
import torch
from PIL import Image

import sdxl
from sdxl.miniature.judge import look
from sdxl.miniature.scenes import Pixels


def test_larger_images_are_right_and_sharp() -> None:
    """The things stay what they are, and their edges are steeper than those of a plain enlargement."""
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    things = (("red", "circle", "blue"), ("white", "cross", "red"))
    given: dict[str, Any] = {"seed": 4, "steps": 16, "guidance_scale": 2.0, "output": "tensor", "progress": False}
    prompts = [f"a {colour} {shape} on a {ground} background" for colour, shape, ground in things]
    small, large = (
        pipe(prompts, **given, **more).images for more in ({}, {"hires": sdxl.Hires(upscaler="lanczos", strength=0.2)})
    )
    assert isinstance(small, torch.Tensor) and isinstance(large, torch.Tensor)
    assert large.shape == (2, 3, 256, 256)
    for first, second, thing in zip(small, large, things, strict=True):
        plain = hires.enlarge(pixels(first))
        assert plain.shape == (256, 256, 3)
        seen = look(pixels(second))
        assert [(each.colour, each.shape, seen.ground) for each in seen.things] == [thing]
        for measure in (hires.edge, hires.fine):
            assert measure(pixels(second)) > measure(plain)


def test_the_measures_of_sharpness() -> None:
    circle = np.hypot(*np.mgrid[-1:1:256j, -1:1:256j]) < 0.5
    sharp = np.repeat(circle[:, :, None].astype(float), 3, axis=2)
    image = Image.fromarray((sharp * 255).astype(np.uint8)).resize((128, 128), Image.Resampling.BOX)
    blurred = hires.enlarge(np.asarray(image) / 255)
    assert hires.edge(sharp) > 1.3 * hires.edge(blurred)
    assert hires.fine(sharp) > 5 * hires.fine(blurred)


def pixels(image: torch.Tensor) -> Pixels:
    return np.asarray(image.permute(1, 2, 0).numpy())
