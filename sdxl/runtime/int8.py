"""Linear layers in 8 bits, for CPUs that multiply bytes quickly. An approximation, and only on request.

Weights have a scale for each output, activations one for each token, found when they come (Dettmers et al. 2022, arXiv
2208.07339, section 3, without its outliers).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..models.layers import Linear
from .sealed import Sealed

_ops: Any = torch.ops.onednn
_INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")
_MIDDLE = 128  # what stands for 0 in an unsigned byte


def can_quantize(device: torch.device) -> bool:
    """Whether this torch has 8-bit layers, and the processor the instructions that make them fast."""
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.12 and older cannot tell
    return device.type == "cpu" and hasattr(_ops, "qlinear_pointwise") and any(able.get(n) for n in _INSTRUCTIONS)


def quantized(layer: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    """The 8-bit layer for a linear one, with activations of `dtype`; None for another."""
    return Int8Linear(layer, dtype) if isinstance(layer, Linear) else None


class Int8Linear(Sealed):
    """About what a linear layer computes: x (..., in) to (..., out)."""

    def __init__(self, plain: Linear, dtype: torch.dtype) -> None:
        super().__init__()
        weight = plain.weight.detach().float()
        self.scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        self.packed = _ops.qlinear_prepack((weight / self.scale[:, None]).round().to(torch.int8), None)
        self.zero = torch.zeros(len(weight), dtype=torch.int32)
        self.bias = torch.zeros(len(weight), dtype=dtype) if plain.bias is None else plain.bias.detach().to(dtype)
        self.added = self.bias.float()  # sums are in float32

    def forward(self, x: Tensor) -> Tensor:
        rows = self.checked(x).flatten(0, -2)
        # in float32: a step rounded down, as in bfloat16, would carry the largest number past 255
        step = rows.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / 127
        values = ((rows / step).round() + _MIDDLE).to(torch.uint8)
        weights = self.packed, self.scale, self.zero
        sums = _ops.qlinear_pointwise(values, 1.0, _MIDDLE, *weights, None, 1.0, 0, torch.float32, "none", [], "")
        return torch.addcmul(self.added, sums, step).to(x.dtype).reshape(*x.shape[:-1], -1)
