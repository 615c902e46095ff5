"""Euler's method, plain and ancestral (Karras et al. 2022, arXiv 2206.00364; k-diffusion's names)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from .step import Denoiser, Noise, Step, euler_step


def euler(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 0.0) -> Iterator[Step]:
    """First order, deterministic at `eta` 0. With `eta` every step draws noise, the last one too."""
    for sigma, to in pairwise(sigmas):
        denoised = denoise(x, sigma)
        x = euler_step(x, denoised, sigma, to, eta, noise)
        yield Step(x, denoised, to)


def euler_ancestral(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """Euler's method with all of the noise drawn anew at every step."""
    yield from euler(denoise, x, sigmas, noise, eta=1.0)
