"""Numbers of float8 as wider ones. torch casts float8_e4m3fn number by number, which takes many times as long."""

from __future__ import annotations

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
_NAN = 0x7F  # without the sign


def sixteen_bits(weight: Tensor, bits: Tensor) -> Tensor:
    """A 256th of numbers of float8_e4m3fn in float16, exactly, in the memory of `bits` (int16); NaN becomes 480 / 256.

    A number of float8_e4m3fn, with its sign in front of 7 bits, is one of float16 whose last 7 bits are 0, divided by
    256.
    """
    bits.copy_(weight.view(torch.int8))  # the sign fills the upper byte
    bits <<= 7
    bits &= ~(1 << 14)  # the second of two copies of the sign, where float16 has its exponent's first bit
    return bits.view(torch.float16)


def widened(weight: Tensor, target: Tensor, bits: Tensor) -> Tensor:
    """Fill `target` (float32), on a CPU, with numbers of float8, with the help of `bits` (int16) of the same shape."""
    if weight.dtype is not E4M3 or not weight.numel() or int((weight.view(torch.uint8) << 1).max()) == _NAN << 1:
        return target.copy_(weight)
    return target.copy_(sixteen_bits(weight, bits)).mul_(256)
