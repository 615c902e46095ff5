"""Tensors as images: what a tensor of one's own becomes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdxl.errors import ArgumentError
from sdxl.images import to_pil, to_tensor


@pytest.mark.parametrize("cut", [False, True])
def test_values_beyond_the_range_are_black_and_white(cut: bool) -> None:
    """As a resize by splines leaves them; a byte would begin again at 0."""
    x = torch.tensor([-0.5, -0.01, 0, 0.5, 1, 1.01, 2]).expand(1, 3, 1, 7)
    row = np.array(to_pil(x, cut)[0])[0, :, 0].tolist()
    assert row == [0, 0, 0, 127 if cut else 128, 255, 255, 255]


def test_images_come_back() -> None:
    x = torch.arange(256).reshape(1, 1, 16, 16) / 255
    assert torch.equal(to_tensor(to_pil(x)[0]), x[0])
    assert torch.equal(to_tensor(to_pil(x.expand(1, 3, 16, 16))[0]), x[0].expand(3, 16, 16))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (8, 8, 3), (1, 2, 8, 8)])
def test_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"the tensor has shape \[.*\]; expected images \(B, 3, H, W\)"):
        to_pil(torch.zeros(shape))
