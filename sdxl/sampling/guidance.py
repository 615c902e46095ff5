"""Guidance: the combination of the network's outputs for several conditionings, its branches, into one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

NEGATIVE, POSITIVE = "negative", "positive"
"""The branches of the negative prompt (or none) and of the prompt."""


class Guider(Protocol):
    """Says which branches a step needs, and combines their outputs."""

    @property
    def names(self) -> tuple[str, ...]:
        """All branches that it may ask for, in the order in which they stand in a batch."""
        ...

    def branches(self, sigma: float) -> tuple[str, ...]:
        """Those that a step at that noise level needs, in the same order."""
        ...

    def combine(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The raw outputs of the network for these branches, (B, C, H, W) each, as one."""
        ...


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (CFG; Ho & Salimans 2022, arXiv 2207.12598). At a `scale` of at most 1 it is off, unless
    it is `always` on: CFG++ needs the negative branch, and takes scales from 0.

    Outside of `interval`, from the lowest sigma to the highest, it is off too (Kynkaanniemi et al. 2024, arXiv
    2404.07724). `rescale` is phi of Lin et al. 2023 (arXiv 2305.08891, equations 15 and 16).
    """

    scale: float = 1.0
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, math.inf)
    always: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The negative and the positive branch, or the positive one alone."""
        return (NEGATIVE, POSITIVE) if self.scale > 1 or self.always else (POSITIVE,)

    def branches(self, sigma: float) -> tuple[str, ...]:
        """Both within the interval."""
        return self.names if self.interval[0] <= sigma <= self.interval[1] else (POSITIVE,)

    def combine(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """u + scale * (c - u), with the standard deviation of c restored in part."""
        positive = outputs[POSITIVE]
        if NEGATIVE not in outputs:
            return positive
        guided = outputs[NEGATIVE] + self.scale * (positive - outputs[NEGATIVE])
        if not self.rescale:
            return guided
        axes = tuple(range(1, guided.ndim))
        ratio = positive.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
        return guided * (self.rescale * ratio + 1 - self.rescale)
