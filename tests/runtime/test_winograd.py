"""Winograd's convolution: its rounding, and its scratch memory in threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from sdxl.models.layers import Conv2d
from sdxl.runtime.winograd import WinogradConv2d


def test_the_rounding_of_winograd_is_not_more(error: Any) -> None:
    torch.manual_seed(2)
    layer = Conv2d(320, 320, 3, padding=1).requires_grad_(False)
    x = torch.randn(2, 320, 16, 24).contiguous(memory_format=torch.channels_last)
    exact = torch.nn.functional.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)  # type: ignore[union-attr]
    assert error(WinogradConv2d(layer)(x), exact) < min(1.5e-6, error(layer(x), exact))


def test_threads_do_not_share_scratch(error: Any) -> None:
    torch.manual_seed(3)
    layers = [WinogradConv2d(Conv2d(128, 128, 3, padding=1).requires_grad_(False)) for _ in range(2)]
    x = torch.randn(1, 128, 32, 32)
    alone = [layer(x) for layer in layers]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda i: layers[i % 2](x), range(40)))
    assert all(torch.equal(result, alone[i % 2]) for i, result in enumerate(together))
