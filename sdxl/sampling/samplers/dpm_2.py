"""DPM-Solver-2 (Karras et al. 2022, arXiv 2206.00364, algorithm 2; k-diffusion's names), plain and ancestral."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..sampler import CHURN, SDXL_BETAS, Denoiser, Noise, Sampler, Scheduler, Step, churn, split

if TYPE_CHECKING:
    from torch import Tensor


def _step(denoise: Denoiser, x: Tensor, denoised: Tensor, sigma: float, to: float, below: float = 0.0) -> Tensor:
    """From `sigma` to `to` along the slope at their geometric mean, or that share `below` it; Euler's step to sigma
    0.
    """
    slope = (x - denoised) / sigma
    if to > 0:
        middle = math.sqrt(sigma * to) * (1 - below)
        guess = x + slope * (middle - sigma)
        slope = (guess - denoise(guess, middle)) / middle
    return x + slope * (to - sigma)


def _dpm_2(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, **churning: Any) -> Iterator[Step]:
    """Second order, deterministic without churn."""
    for begin, to in pairwise(sigmas):
        x, sigma = churn(x, begin, len(sigmas) - 1, noise, **churning)
        denoised = denoise(x, sigma)
        x = _step(denoise, x, denoised, sigma, to)
        yield Step(x, denoised, to)


dpm_2 = Sampler(
    _dpm_2,
    a1111="DPM2",
    diffusers=Scheduler("KDPM2DiscreteScheduler", defaults=SDXL_BETAS),
    options=CHURN,
    starts_at_sigma=("linspace", "trailing"),
    calls=2,
    names=("k_dpm_2",),
    automatic="karras",
)


def _dpm_2_ancestral(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    eta: float = 1.0,
    s_noise: float = 1.0,
    below: float = 0.0,
) -> Iterator[Step]:
    """The share `eta` of the noise is drawn again at each step. At eta 1 the middle of a step is the level of the next
    one, whose timestep may be a rounded one; `below` tells them apart.
    """
    for sigma, to in pairwise(sigmas):
        denoised = denoise(x, sigma)
        down, up = split(sigma, to, eta)
        x = _step(denoise, x, denoised, sigma, down, below)
        if up:
            x = x + noise(sigma, to) * (up * s_noise)
        yield Step(x, denoised, to)


dpm_2_ancestral = Sampler(
    _dpm_2_ancestral,
    a1111="DPM2 a",
    diffusers=Scheduler("KDPM2AncestralDiscreteScheduler", defaults=SDXL_BETAS),
    options={"eta": 1.0, "s_noise": 1.0},
    starts_at_sigma=("linspace", "trailing"),
    calls=2,
    names=("k_dpm_2_a",),
    automatic="karras",
)
