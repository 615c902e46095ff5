"""Linear layers whose weights are kept in 8 bits, float8_e4m3fn (Micikevicius et al. 2022, arXiv 2209.05433), and cast
when they are used. It takes half the memory of 16 bits and more time. An approximation, and only on request.

Each row is divided by a power of two that brings its largest number to between 224 and 448, the format's largest. Such
a scale loses nothing when a weight is made wide again. For a weight w, and w' that is kept for it:
|w' - w| <= max(|w| / 16, scale / 1024). So an output is off by at most the sum over |x| of that, beside rounding.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.float8 import sixteen_bits
from ..models.layers import Linear
from .scratch import PIECE, scratch
from .streamed import PLAIN, Read, sent

FP8 = torch.float8_e4m3fn


@cache
def has_fp8(device: torch.device) -> bool:
    """Whether a device can keep and cast float8_e4m3fn."""
    try:
        return bool(torch.ones(2, dtype=torch.float32, device=device).to(FP8).float().sum() == 2)
    except (RuntimeError, TypeError):  # Apple's GPU has no such type
        return False


def narrowed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix in float8, and the scales of its rows in float32; one that is in float8 is itself, with scales of 1. A
    row with numbers that are not finite has the scale NaN.
    """
    if weight.dtype is FP8:
        is_bad = (weight.view(torch.uint8) << 1).amax(1) == 0xFE
        return weight, torch.ones(len(weight), dtype=torch.float32, device=weight.device).masked_fill(is_bad, torch.nan)
    result = torch.empty(weight.shape, dtype=FP8, device=weight.device)
    rows = max(1, PIECE // weight.shape[1]) if weight.device.type == "cpu" else len(weight)
    scales = []
    for source, target in zip(weight.split(rows), result.split(rows), strict=True):
        x = source.float()
        largest = x.abs().amax(1)
        mantissa, exponent = torch.frexp(largest)  # the mantissa is in [0.5, 1), and 448 is 0.875 * 2^9
        exponent = (exponent - 9 + (mantissa > 0.875)).clamp(min=-126)
        scale = ((exponent + 127).int() << 23).view(torch.float32)  # 2^exponent; pow may be off by a bit
        target.copy_(x / scale[:, None])
        scales.append(scale.masked_fill(~largest.isfinite(), torch.nan))
    return result, torch.cat(scales)


def widen(weight: Tensor, scale: Tensor, target: Tensor) -> Tensor:
    """Fill `target`, on a CPU, with a matrix in float8 times the scales of its rows, which are NaN where it has NaN."""
    rows = max(1, PIECE // weight.shape[1])
    factors = (256 * scale)[:, None].split(rows)
    for source, piece, factor in zip(weight.split(rows), target.split(rows), factors, strict=True):
        numbers = sixteen_bits(source, scratch.take("bits", source.shape, torch.int16))
        is_wide = piece.dtype is torch.float32
        wide = piece if is_wide else scratch.take("wide", piece.shape, torch.float32)
        wide.copy_(numbers).mul_(factor)
        if not is_wide:
            piece.copy_(wide)
    return target


class Fp8Linear(nn.Linear):
    """A linear layer that keeps its weight in float8, with the `scale` of each row. Without scales the weight is its
    file's, and every call makes it narrow first, as it is `read`, as if it had been kept that way.
    """

    def __init__(self, plain: Linear, scale: Tensor | None = None, read: Read = PLAIN) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        self.scale = None if scale is None else nn.Parameter(scale, requires_grad=False)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        weight, scale = self._narrow()
        if not weight.device.type == x.device.type == "cpu" or torch.is_grad_enabled():
            wide = sent(weight, x.device, weight.dtype).to(x.dtype).mul_(scale.to(x.device)[:, None])  # 8 bits travel
            return F.linear(x, wide, self.bias)
        with scratch.lend(weight.shape, x.dtype) as buffer:
            return F.linear(x, widen(weight, scale, buffer), self.bias)

    def _narrow(self) -> tuple[Tensor, Tensor]:
        if self.scale is not None:
            return self.weight, self.scale
        return narrowed(self.read(self.weight))
