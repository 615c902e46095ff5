"""Heun's method (Karras et al. 2022, arXiv 2206.00364, algorithm 1): two denoiser calls a step, second order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..sampler import CHURN, SDXL_BETAS, Denoiser, Noise, Sampler, Scheduler, Step, churn

if TYPE_CHECKING:
    from torch import Tensor


def _heun(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, **churning: Any) -> Iterator[Step]:
    """Second order, deterministic without churn; the step to sigma 0 is Euler's."""
    for begin, to in pairwise(sigmas):
        x, sigma = churn(x, begin, len(sigmas) - 1, noise, **churning)
        denoised = denoise(x, sigma)
        slope = (x - denoised) / sigma
        guess = x + slope * (to - sigma)
        if to > 0:
            slope = (slope + (guess - denoise(guess, to)) / to) / 2
            guess = x + slope * (to - sigma)
        x = guess
        yield Step(x, denoised, to)


heun = Sampler(
    _heun,
    a1111="Heun",
    diffusers=Scheduler("HeunDiscreteScheduler", fixed={"clip_sample": False}, defaults=SDXL_BETAS),
    options=CHURN,
    names=("k_heun",),
    starts_at_sigma=("linspace", "trailing"),
    calls=2,
)
