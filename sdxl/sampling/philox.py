"""Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), as CUDA draws normal numbers.

AUTOMATIC1111's GPU and NV noise and stable-diffusion.cpp's default are these. torch's own on a CUDA card are the same
while there are no more numbers than the card has threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_LOW, _BITS = np.uint64(0xFFFFFFFF), np.uint64(32)


class Philox:
    """A generator of standard normal numbers, the same on every device. Each draw raises the first counter by 1."""

    def __init__(self, key: int) -> None:
        self.key, self.draws = key, 0

    def randn(self, shape: Sequence[int]) -> Tensor:
        """The next tensor of a shape, float32 on the CPU."""
        numbers = philox_normal(self.key, self.draws, math.prod(shape))
        self.draws += 1
        return torch.from_numpy(numbers).reshape(tuple(shape))

    def seed(self) -> int:
        """A seed for other noise, of 63 bits, which it draws."""
        low, high = (int(word[0]) for word in _philox(self.key, self.draws, 1))
        self.draws += 1
        return high << 31 | low >> 1


def philox_normal(seed: int, draw: int, count: int) -> NDArray[np.float32]:
    """`count` standard normal numbers of a draw: number i has the counter (draw, 0, i, 0), and the seed is the key."""
    a, b = _philox(seed, draw, count)
    radius, angle = (a + 0.5) / 2**32, (b + 0.5) * (2 * math.pi / 2**32)  # Box and Muller 1958
    return np.asarray(np.sqrt(-2 * np.log(radius)) * np.sin(angle), dtype=np.float32)


def _philox(seed: int, draw: int, count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The first two of the four 32-bit words of each counter, after ten rounds."""
    c0, c1, c3 = (np.full(count, value, dtype=np.uint64) for value in (draw & 0xFFFFFFFF, 0, 0))
    c2 = np.arange(count, dtype=np.uint64)
    keys = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    for _ in range(10):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # of 64 bits
        c0, c1, c2, c3 = (
            second >> _BITS ^ c1 ^ np.uint64(keys[0]),
            second & _LOW,
            first >> _BITS ^ c3 ^ np.uint64(keys[1]),
            first & _LOW,
        )
        keys = [(key + weyl) & 0xFFFFFFFF for key, weyl in zip(keys, _WEYL, strict=True)]
    return c0, c1
