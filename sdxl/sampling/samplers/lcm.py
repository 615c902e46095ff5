"""The samplers of consistency models, which guess the image at each step and add noise to the guess again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ...errors import ArgumentError
from ..sampler import SDXL_BETAS, Denoiser, Noise, Sampler, Scheduler, Step

if TYPE_CHECKING:
    from torch import Tensor

    from ..schedules import NoiseLevels


def _lcm(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, s_noise: float = 1.0) -> Iterator[Step]:
    """Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, algorithm 1; LCM, arXiv 2310.04378)."""
    for sigma, to in pairwise(sigmas):
        denoised = denoise(x, sigma)
        x = denoised + noise(sigma, to) * (to * s_noise) if to > 0 else denoised
        yield Step(x, denoised, to)


_FIXED = {"clip_sample": False, "original_inference_steps": 50, "thresholding": False}

lcm = Sampler(
    _lcm,
    a1111="LCM",
    diffusers=Scheduler(
        "LCMScheduler",
        fixed=_FIXED,
        defaults={**SDXL_BETAS, "original_inference_steps": 50},
        schedule="lcm",
    ),
    options={"s_noise": 1.0},
)


def _tcd(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    eta: float = 0.3,
    levels: NoiseLevels | None = None,
) -> Iterator[Step]:
    """Trajectory consistency (Zheng et al. 2024, arXiv 2402.19159, algorithm 4; its gamma is `eta`): down to the share
    1 - `eta` of the next timestep, and up again with noise. Deterministic at `eta` 0. Raises `ArgumentError` without
    the model's noise levels.
    """
    if levels is None:
        raise ArgumentError("tcd steps over timesteps; give levels=, the model's noise levels (noise_table)")
    for sigma, to in pairwise(sigmas):
        denoised = denoise(x, sigma)
        timestep = float(levels.timestep([to])[0]) if to > 0 else 0.0
        low = min(float(levels.sigma([math.floor((1 - eta) * timestep + 1e-6)])[0]), to) if eta else to
        x = denoised + (x - denoised) * (low / sigma)
        if to > low:
            x = x + noise(sigma, to) * math.sqrt(to**2 - low**2)
        yield Step(x, denoised, to)


tcd = Sampler(
    _tcd,
    a1111="TCD",
    diffusers=Scheduler(
        "TCDScheduler",
        fixed=_FIXED,
        defaults={**SDXL_BETAS, "original_inference_steps": 50, "set_alpha_to_one": True},
        schedule="lcm",
    ),
    options={"eta": 0.3},
    ends_at_zero=False,
    with_levels=True,
)
