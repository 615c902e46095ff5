"""Packed layers against the layers that they were made from."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdxl.errors import ArgumentError
from sdxl.models.layers import Conv2d, Linear
from sdxl.models.unet import GEGLU
from sdxl.runtime.onednn import can_pack, packed

CPU = torch.device("cpu")


@pytest.mark.skipif(not can_pack(CPU), reason="this torch has no packed layers")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_layers_compute_the_same(dtype: torch.dtype, error: Any) -> None:
    if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16 layers in oneDNN")
    torch.manual_seed(1)
    layers: list[tuple[torch.nn.Module, tuple[int, ...]]] = [
        (Linear(40, 24), (2, 9, 40)),
        (Linear(40, 24, bias=False), (5, 40)),
        (Conv2d(8, 16, 3, stride=2, padding=1), (2, 8, 11, 7)),
        (Conv2d(8, 16, 1), (1, 8, 5, 6)),
        (GEGLU(32), (2, 9, 32)),
        (Conv2d(128, 160, 3, padding=1), (2, 128, 12, 10)),
        (Conv2d(160, 128, 3, padding=1, bias=False), (1, 160, 1, 7)),
        (Conv2d(128, 128, 3, padding=1), (1, 128, 25, 301)),
    ]
    for layer, shape in layers:
        layer.to(dtype).requires_grad_(False)
        quick = packed(layer, dtype)
        assert quick is not None
        x = torch.randn(shape).to(dtype)
        exact = layer.float()(x.float())
        assert error(quick(x).float(), exact) < (1e-5 if dtype is torch.float32 else 0.02)
        assert not hasattr(quick, "weight")


@pytest.mark.skipif(not can_pack(CPU), reason="this torch has no packed layers")
def test_packed_layers_refuse_gradients() -> None:
    """Rather than to lose them on the way; and what they refused leaves no trace."""
    for layer, shape in (
        (Linear(8, 8), (3, 8)),
        (Conv2d(8, 8, 3), (1, 8, 5, 5)),
        (Conv2d(128, 128, 3, padding=1), (1, 128, 4, 4)),
        (GEGLU(8), (1, 3, 8)),
    ):
        quick = packed(layer, torch.float32)
        assert quick is not None
        with pytest.raises(ArgumentError, match="no gradients pass; load the model with trainable=True"):
            quick(torch.ones(shape, requires_grad=True))
        assert not quick(torch.ones(shape)).requires_grad
        with torch.no_grad():
            quick(torch.ones(shape, requires_grad=True))


@pytest.mark.skipif(not can_pack(CPU, torch.bfloat16), reason="this processor has no packed layers in bfloat16")
def test_packing_rounds_half_precision_once() -> None:
    """From float16 to bfloat16 a weight passes through float32, which loses nothing."""
    torch.manual_seed(1)
    for layer, shape in ((Linear(40, 24), (5, 40)), (Conv2d(8, 16, 3, padding=1), (1, 8, 5, 6))):
        layer.half().requires_grad_(False)
        quick = packed(layer, torch.bfloat16)
        same = packed(layer.to(torch.bfloat16), torch.bfloat16)
        assert quick is not None and same is not None
        x = torch.randn(shape).to(torch.bfloat16)
        assert torch.equal(quick(x), same(x))
