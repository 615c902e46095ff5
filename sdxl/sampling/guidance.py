"""Guidance: the combination of the network's outputs for several conditionings, its branches, into one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .guiders import APG, PAG, NamedGuider
from .prediction import Point

NEGATIVE, POSITIVE, PERTURBED = "negative", "positive", "perturbed"
"""The branches of the negative prompt (or none), of the prompt, and of the prompt with perturbed self-attention."""


class Guider(Protocol):
    """Says which branches a step needs, and combines their outputs."""

    @property
    def names(self) -> tuple[str, ...]:
        """All branches that it may ask for, in the order in which they stand in a batch."""
        ...

    def branches(self, sigma: float) -> tuple[str, ...]:
        """Those that a step at that noise level needs, in the same order."""
        ...

    def combine(self, outputs: Mapping[str, Tensor], point: Point) -> Tensor:
        """The raw outputs of the network for these branches, (B, C, H, W) each, as one; `point` says what they mean."""
        ...


def perturbed(branch: str) -> str:
    """The name of a branch whose self-attention is perturbed."""
    return PERTURBED if branch == POSITIVE else f"{PERTURBED} {branch}"


def is_perturbed(branch: str) -> bool:
    """Whether a branch has perturbed self-attention."""
    return branch.startswith(PERTURBED)


def unperturbed(branch: str) -> str:
    """The branch with the same conditioning whose self-attention is as ever."""
    return POSITIVE if branch == PERTURBED else branch.removeprefix(f"{PERTURBED} ")


@dataclass(frozen=True)
class Scales:
    """A guidance scale for each step; `sigmas` are those at which the steps begin."""

    values: tuple[float, ...]
    sigmas: tuple[float, ...]

    def at(self, sigma: float) -> float:
        """That of the step that is under way at a noise level."""
        return self.values[max(sum(each >= sigma for each in self.sigmas) - 1, 0)]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (CFG; Ho & Salimans 2022, arXiv 2207.12598). At a `scale` of at most 1 it is off, unless
    it is `always` on: CFG++ needs the negative branch, and takes scales from 0.

    Outside of `interval`, from the lowest sigma to the highest, it is off too (Kynkaanniemi et al. 2024, arXiv
    2404.07724). `rescale` is phi of Lin et al. 2023 (arXiv 2305.08891, equations 15 and 16). `guider` is APG in place
    of CFG, or PAG beside it. For other tools' conventions: unless it is `off_below_1`, a scale below 1 guides too;
    `rescales_v` lets `rescale` act on v, whatever the network predicts.
    """

    scale: float | Scales = 1.0
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, math.inf)
    guider: NamedGuider | None = None
    always: bool = False
    off_below_1: bool = True
    rescales_v: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The negative branch where guidance is on, the positive one, and with PAG the perturbed one."""
        scales = self.scale.values if isinstance(self.scale, Scales) else (self.scale,)
        return self._branches(max(scales, key=self._needs_negative))

    def _needs_negative(self, scale: float) -> bool:
        return self.always or scale > 1 or not (self.off_below_1 or math.isclose(scale, 1))

    def _branches(self, scale: float) -> tuple[str, ...]:
        negative = (NEGATIVE,) if self._needs_negative(scale) else ()
        return (*negative, POSITIVE, *((PERTURBED,) if self.pag_scale else ()))

    @property
    def pag_scale(self) -> float:
        """The scale of PAG; 0 without it."""
        return self.guider.scale if isinstance(self.guider, PAG) else 0.0

    def at(self, sigma: float) -> float:
        """The scale at a noise level, within the interval."""
        return self.scale.at(sigma) if isinstance(self.scale, Scales) else self.scale

    def branches(self, sigma: float) -> tuple[str, ...]:
        """Those that are needed within the interval; outside of it the positive one."""
        return self._branches(self.at(sigma)) if self.interval[0] <= sigma <= self.interval[1] else (POSITIVE,)

    def combine(self, outputs: Mapping[str, Tensor], point: Point) -> Tensor:
        """u + scale * (c - u), with APG another difference; + PAG's difference; with the standard deviation of c
        restored in part.
        """
        positive = outputs[POSITIVE]
        guided = positive
        if NEGATIVE in outputs:
            guided = self._guided(positive, outputs[NEGATIVE], point)
        if PERTURBED in outputs:
            guided = guided + self.pag_scale * (positive - outputs[PERTURBED])
        if not self.rescale or guided is positive:
            return guided
        if not self.rescales_v:
            return self._rescaled(positive, guided)
        return point.of_v(self._rescaled(point.v(positive), point.v(guided)))

    def _rescaled(self, positive: Tensor, guided: Tensor) -> Tensor:
        axes = tuple(range(1, guided.ndim))
        ratio = positive.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
        return guided * (self.rescale * ratio + 1 - self.rescale)

    def _guided(self, positive: Tensor, negative: Tensor, point: Point) -> Tensor:
        scale = self.at(point.sigma)
        if not isinstance(self.guider, APG):
            return negative + scale * (positive - negative)
        # the guesses differ by point.out times the outputs' difference
        change = project(point.out * (positive - negative), point.denoised(positive), self.guider, point)
        return positive + (scale - 1) / point.out * change


def project(difference: Tensor, guess: Tensor, apg: APG, point: Point) -> Tensor:
    """APG's difference (arXiv 2410.02416, equations 6 to 9) for that of the clean guesses and the guess itself, both
    (B, C, H, W); each image has its own norm and direction. The momentum is kept in the point's memory.
    """
    last = point.memory.get("apg")
    if apg.momentum:
        if last is not None and last[0] >= point.sigma:
            difference = difference + apg.momentum * last[1]
        point.memory["apg"] = point.sigma, difference
    axes = tuple(range(1, difference.ndim))
    if apg.norm_threshold:
        norm = torch.linalg.vector_norm(difference, dim=axes, keepdim=True)
        difference = difference * (apg.norm_threshold / norm.clamp(min=1e-12)).clamp(max=1)
    length = guess.square().sum(dim=axes, keepdim=True).clamp(min=1e-24)
    along = (difference * guess).sum(dim=axes, keepdim=True) / length * guess
    return difference - (1 - apg.eta) * along
