"""DPM-Solver++ (2S) with noise (Lu et al. 2022, arXiv 2211.01095, algorithm 1, as k-diffusion writes it)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ..sampler import SDXL_BETAS, Denoiser, Noise, Sampler, Scheduler, Step, split

if TYPE_CHECKING:
    from torch import Tensor


def _toward(x: Tensor, denoised: Tensor, ratio: float) -> Tensor:
    """x at `ratio` times its noise level, on the straight way to a guess."""
    return x * ratio + denoised * (1 - ratio)


def _dpmpp_2s_ancestral(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Second order at `eta` 0; the share `eta` of the noise is drawn again at each step."""
    for sigma, to in pairwise(sigmas):
        denoised = guess = denoise(x, sigma)
        down, up = split(sigma, to, eta)
        if down > 0:
            middle = math.sqrt(sigma * down)
            guess = denoise(_toward(x, denoised, middle / sigma), middle)
        x = _toward(x, guess, down / sigma)
        if up:
            x = x + noise(sigma, to) * (up * s_noise)
        yield Step(x, denoised, to)


dpmpp_2s_ancestral = Sampler(
    _dpmpp_2s_ancestral,
    a1111="DPM++ 2S a",
    options={"eta": 1.0, "s_noise": 1.0},
    calls=2,
    names=("k_dpmpp_2s_a",),
    automatic="karras",
)


def _dpmpp_sde(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
) -> Iterator[Step]:
    """Noise at the middle call too, which lies at the share `r` of the step in log sigma. Second order at `eta` 0."""
    for sigma, to in pairwise(sigmas):
        denoised = guess = denoise(x, sigma)
        down, up = split(sigma, to, eta)
        if to > 0:
            middle = sigma ** (1 - r) * to**r
            half_down, half_up = split(sigma, middle, eta)
            half = _toward(x, denoised, half_down / sigma)
            if half_up:
                half = half + noise(sigma, middle) * (half_up * s_noise)
            share = 1 / (2 * r)
            guess = denoised * (1 - share) + denoise(half, middle) * share
        x = _toward(x, guess, down / sigma)
        if up:
            x = x + noise(sigma, to) * (up * s_noise)
        yield Step(x, denoised, to)


dpmpp_sde = Sampler(
    _dpmpp_sde,
    a1111="DPM++ SDE",
    diffusers=Scheduler("DPMSolverSDEScheduler", defaults=SDXL_BETAS),
    options={"eta": 1.0, "s_noise": 1.0, "r": 0.5, "noise": "tree"},
    starts_at_sigma=("linspace", "trailing"),
    calls=2,
    names=("dpmpp_sde_gpu", "k_dpmpp_sde"),
    automatic="karras",
)
