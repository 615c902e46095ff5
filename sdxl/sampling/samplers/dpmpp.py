"""DPM-Solver++ (2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2), in sigma space as k-diffusion writes it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ..sampler import Denoiser, Noise, Sampler, Scheduler, Step

if TYPE_CHECKING:
    from torch import Tensor


def _dpmpp_2m(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
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


def multistep(algorithm_type: str, solver_type: str) -> Scheduler:
    """diffusers' class for all multistep solvers of second order."""
    return Scheduler(
        "DPMSolverMultistepScheduler",
        fixed={
            "algorithm_type": algorithm_type,
            "final_sigmas_type": "zero",
            "lambda_min_clipped": -math.inf,
            "solver_order": 2,
            "solver_type": solver_type,
            "thresholding": False,
            "variance_type": None,
        },
        defaults={"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"},
    )


dpmpp_2m = Sampler(
    _dpmpp_2m,
    a1111="DPM++ 2M",
    diffusers=multistep("dpmsolver++", "midpoint"),
    names=("k_dpmpp_2m",),
    automatic="karras",
)
