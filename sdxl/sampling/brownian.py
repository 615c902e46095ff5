"""Brownian motion over noise levels, halved again and again: the same noise between two levels whatever lies between.

The tree and its numbers are those of torchsde 0.2, which k-diffusion, ComfyUI and AUTOMATIC1111 draw from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError

_DIGITS = 6  # of the levels


class BrownianPath:
    """The path of one image of `shape` from `low` to `high`, drawn on the CPU; another `entropy` gives another path.
    `randn` gives the first normal numbers of a seed and a shape, if not torch's generator on the CPU.

    A new level costs one draw for each halving down to it, about 24.
    """

    def __init__(
        self,
        entropy: int,
        low: float,
        high: float,
        shape: Sequence[int],
        randn: Callable[[int, Sequence[int]], Tensor] | None = None,
    ) -> None:
        self.entropy, self.shape, self._numbers = entropy, tuple(shape), randn or _cpu_randn
        self.low, self.high = round(low, _DIGITS), round(high, _DIGITS)
        words = np.random.SeedSequence(entropy=entropy, pool_size=24).generate_state(3)
        self.whole = self._randn(int(words[0])) * math.sqrt(self.high - self.low)
        self.known = {self.low: torch.zeros_like(self.whole), self.high: self.whole}

    def __call__(self, sigma: float, to: float) -> Tensor:
        """The part between two levels as float32 noise of variance 1, `shape`."""
        begin, end = round(sigma, _DIGITS), round(to, _DIGITS)
        if begin == end:  # too near for the tree: noise of their own
            words = np.random.SeedSequence([self.entropy, round(to * 10**_DIGITS)]).generate_state(1)
            return self._randn(int(words[0])).float()
        ends = {level: self._at(level) for level in (begin, end)}
        self.known = {level: self.known[level] for level in (self.low, self.high)} | ends  # the next step begins at one
        return ((ends[end] - ends[begin]) / math.sqrt(abs(sigma - to))).float()

    def _at(self, level: float) -> Tensor:
        """The path's value at a level, from `low` on."""
        if level in self.known:
            return self.known[level]
        if not self.low <= level <= self.high:
            raise ArgumentError(f"noise for sigma {level} is asked for; expected {self.low} to {self.high}")
        low, high, start, whole, path, depth = self.low, self.high, self.known[self.low], self.whole, 0, 0
        while True:
            middle = round((low + high) / 2, _DIGITS)
            sequence = np.random.SeedSequence(entropy=self.entropy, spawn_key=(path, depth), pool_size=24)
            spread = math.sqrt((middle - low) * (high - middle) / (high - low))
            left = whole * ((middle - low) / (high - low)) + self._randn(int(sequence.generate_state(4)[0])) * spread
            if level == middle:
                return start + left
            if level < middle:
                high, whole, path = middle, left, 2 * path
            else:
                low, start, whole, path = middle, start + left, whole - left, 2 * path + 1
            depth += 1

    def _randn(self, seed: int) -> Tensor:
        return self._numbers(seed, self.shape).double()


def _cpu_randn(seed: int, shape: Sequence[int]) -> Tensor:
    return torch.randn(
        tuple(shape), generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32, device="cpu"
    )
