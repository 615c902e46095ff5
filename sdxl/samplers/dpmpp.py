"""DPM-Solver++ (2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2), in sigma space as k-diffusion writes it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from .step import Denoiser, Noise, Step


def dpmpp_2m(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """Second order with one call a step, deterministic; the first step and the one to sigma 0 are first order."""
    previous: tuple[Tensor, float] | None = None  # the last guess and the length of its step in log sigma
    for sigma, to in pairwise(sigmas):
        denoised = denoise(x, sigma)
        if to == 0:
            x = denoised
        else:
            h = math.log(sigma / to)
            guess = denoised
            if previous is not None:
                guess = denoised + (denoised - previous[0]) * (h / (2 * previous[1]))
            x = x * (to / sigma) - guess * math.expm1(-h)
            previous = (denoised, h)
        yield Step(x, denoised, to)
