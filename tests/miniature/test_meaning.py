"""Weights, changes and parts of prompts on the miniature, judged from the pixels (`make proof-prompts` does more)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import sdxl
from sdxl.miniature.judge import area, look
from sdxl.miniature.scenes import Pixels

A1111: dict[str, Any] = {"steps": 10, "progress": False, "prompt_syntax": "a1111"}


@pytest.fixture(scope="module")
def pipe() -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")


def paint(pipe: sdxl.Pipeline, *prompts: str, **more: Any) -> list[Pixels]:
    """An image of each prompt, all with one seed."""
    images = pipe(list(prompts), seed=[4] * len(prompts), output="tensor", **(A1111 | more)).images
    assert isinstance(images, torch.Tensor)
    return list(images.permute(0, 2, 3, 1).numpy())


def test_more_weight_is_more_of_it(pipe: sdxl.Pipeline) -> None:
    text = "a (red star:{}) left of a blue circle on a yellow background"
    low, plain, high = (area(each, "red") for each in paint(pipe, *map(text.format, (0.6, 1, 1.4))))
    assert high > plain + 0.01 > low + 0.02


def test_changes_and_parts(pipe: sdxl.Pipeline) -> None:
    """Of an early change the new thing is left; of two prompts the one of more weight is seen."""
    text = "a red circle on a yellow background"
    images = paint(
        pipe,
        "a [red circle:blue star:0.2] on a yellow background",
        f"{text} :0.9 AND a blue circle on a yellow background :0.1",
        f"{text} :0.1 AND a blue circle on a yellow background :0.9",
    )
    seen = [[(thing.colour, thing.shape) for thing in look(pixels).things] for pixels in images]
    assert seen == [[("blue", "star")], [("red", "circle")], [("blue", "circle")]]


@pytest.mark.parametrize("syntax", ["a1111", "comfyui"])
def test_without_weights_the_image_is_the_same(syntax: str, pipe: sdxl.Pipeline) -> None:
    plain, other = (
        paint(pipe, "a red circle, on a blue background", steps=1, prompt_syntax=name)[0] for name in ("plain", syntax)
    )
    assert np.array_equal(plain, other)
