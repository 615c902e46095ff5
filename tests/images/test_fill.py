"""The window of `mask_padding` as diffusers has it, against its own functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdxl.images.fill import fill, grow_box, unfill


@pytest.fixture(scope="module")
def processor() -> Any:
    pytest.importorskip("diffusers")
    from diffusers.image_processor import VaeImageProcessor

    return VaeImageProcessor()


@pytest.mark.parametrize("seed", range(4))
def test_boxes_equal_diffusers(seed: int, processor: Any) -> None:
    """Of boxes everywhere, also at the borders, for works of all proportions."""
    random = np.random.default_rng(seed)
    for _ in range(60):
        width, height, wide, high = (int(each) for each in random.integers(8, 90, 4))
        left, right = sorted(random.choice(width + 1, 2, replace=False))
        top, bottom = sorted(random.choice(height + 1, 2, replace=False))
        pixels = np.zeros((height, width), np.uint8)
        pixels[top:bottom, left:right] = random.integers(1, 256)
        mask, padding = Image.fromarray(pixels), int(random.choice([0, 1, 5, 32]))
        box = mask.getbbox()
        assert box is not None
        wanted = processor.get_crop_region(mask, wide, high, pad=padding)
        assert grow_box(box, padding, (high, wide), (height, width)) == wanted


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_filling_equals_diffusers(mode: str, processor: Any) -> None:
    random = np.random.default_rng(1)
    for _ in range(60):
        width, height, wide, high = (int(each) for each in random.integers(8, 60, 4))
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
        filled = fill(image, (high, wide))
        assert filled.mode == mode
        wanted = processor._resize_and_fill(image, wide, high)
        assert filled.convert("RGB").tobytes() == wanted.tobytes()
        wanted = processor._resize_and_crop(filled, width, height)
        assert unfill(filled, (height, width)).convert("RGB").tobytes() == wanted.tobytes()
