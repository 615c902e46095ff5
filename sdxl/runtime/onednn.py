"""Prepacked layers for a CPU: their weights have the layout that oneDNN computes with. The arithmetic is the same,
without a reordering of the weights at every call.

A packed layer has no `weight` that could be read or changed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..models.layers import Conv2d, Linear
from ..models.unet import GEGLU
from .scratch import cast, scratch
from .sealed import Sealed

_ops: Any = torch.ops.mkldnn


def can_pack(device: torch.device, dtype: torch.dtype = torch.float32) -> bool:
    """Whether this torch and device have packed layers that compute in `dtype`."""
    has_onednn: bool = torch.backends.mkldnn.is_available()
    return device.type == "cpu" and has_onednn and hasattr(_ops, "_linear_pointwise") and can_compute(dtype)


def can_compute(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in `dtype` on this processor."""
    tests = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return dtype not in tests or bool(getattr(_ops, tests[dtype], lambda: False)())


def packed(layer: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    """The packed layer that computes in `dtype` what `layer` does; None where there is none."""
    if isinstance(layer, GEGLU):
        return PackedGEGLU(layer, dtype)
    if isinstance(layer, Linear):
        return PackedLinear(layer.weight, layer.bias, dtype)
    return PackedConv2d(layer, dtype) if isinstance(layer, Conv2d) else None


def _as(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in a dtype, valid until the next one."""
    return cast(weight.detach(), scratch.take("weight", weight.shape, dtype))


class PackedLinear(Sealed):
    """A linear layer; `activation` and a second factor are applied before the result is rounded."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, activation: str = "none") -> None:
        super().__init__()
        self.packed = _ops._reorder_linear_weight(_as(weight, dtype), None)
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.activation = activation

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """x (..., in) to (..., out), times `factor` (..., out)."""
        result: Tensor
        x = self.checked(x)
        if factor is not None:
            result = _ops._linear_pointwise.binary(x, factor, self.packed, self.bias, "mul")
        else:
            result = _ops._linear_pointwise(x, self.packed, self.bias, self.activation, [], "none")
        return result


class PackedGEGLU(nn.Module):
    """`GEGLU` whose GELU and product happen inside its matrix products."""

    def __init__(self, plain: GEGLU, dtype: torch.dtype) -> None:
        super().__init__()
        (h, gate), (h_bias, gate_bias) = plain.proj.weight.chunk(2), plain.proj.bias.chunk(2)
        self.gate, self.h = PackedLinear(gate, gate_bias, dtype, "gelu"), PackedLinear(h, h_bias, dtype)
        self.out = PackedLinear(plain.out.weight, plain.out.bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(self.h(x, self.gate(x)))
        return result


class PackedConv2d(Sealed):
    """A convolution, over feature maps in channels_last."""

    def __init__(self, plain: Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.geometry = plain.padding, plain.stride, plain.dilation, plain.groups
        self.packed = _ops._reorder_convolution_weight(_as(plain.weight, dtype), *self.geometry, None)
        self.bias = None if plain.bias is None else plain.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self.checked(x).contiguous(memory_format=torch.channels_last)
        result: Tensor = _ops._convolution_pointwise(x, self.packed, self.bias, *self.geometry, "none", [], "")
        return result
