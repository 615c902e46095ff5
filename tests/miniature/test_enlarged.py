"""Hires fix on the miniature, judged from the pixels (`make proof-hires` does more)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hires
import numpy as np
import pytest
import torch
from PIL import Image

import sdxl
from sdxl.miniature.exam import make_scenes, paint
from sdxl.miniature.judge import agrees, look
from sdxl.miniature.scenes import Pixels

LARGE = Path(__file__).parents[2] / "weights/adapters/large.safetensors"


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


@pytest.mark.slow
def test_two_things_stay_two_with_a_lora_for_the_size() -> None:
    """Without it they are repeated."""
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    scenes = make_scenes(4, 96, things=2)
    counts = []
    for loras in ([], [LARGE]):
        pipe.set_loras(loras)
        images = paint(pipe, scenes, hires=sdxl.Hires(upscaler="lanczos", strength=0.5), steps=12, guidance_scale=2.0)
        assert images[0].shape == (256, 256, 3)
        counts.append(sum(agrees(look(each), scene) for each, scene in zip(images, scenes, strict=True)))
    assert not pipe.loras[0].unknown
    assert counts[0] <= 2
    assert counts[1] == 4


def test_the_measures_of_sharpness() -> None:
    circle = np.hypot(*np.mgrid[-1:1:256j, -1:1:256j]) < 0.5
    sharp = np.repeat(circle[:, :, None].astype(float), 3, axis=2)
    image = Image.fromarray((sharp * 255).astype(np.uint8)).resize((128, 128), Image.Resampling.BOX)
    blurred = hires.enlarge(np.asarray(image) / 255)
    assert hires.edge(sharp) > 1.3 * hires.edge(blurred)
    assert hires.fine(sharp) > 5 * hires.fine(blurred)


def pixels(image: torch.Tensor) -> Pixels:
    return np.asarray(image.permute(1, 2, 0).numpy())
