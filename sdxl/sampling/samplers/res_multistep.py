"""RES, the refined exponential solver, multistep (Zhang et al. 2023, arXiv 2308.02157; ComfyUI's name)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from ..sampler import Denoiser, Noise, Sampler, Step, euler_step, split
from .dpmpp import multistep

if TYPE_CHECKING:
    from torch import Tensor


def _res_multistep(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Second order at `eta` 0, where it is dpmpp_2m_sde_heun; the first step and the one to sigma 0 are Euler's. The
    share `eta` of the noise is drawn again at each step.
    """
    previous: tuple[Tensor, float] | None = None  # the last guess and the length of its step down in log sigma
    for sigma, to in pairwise(sigmas):
        denoised = denoise(x, sigma)
        down, up = split(sigma, to, eta)
        h = math.log(sigma / down) if down > 0 else math.inf
        if previous is None or down == 0:
            x = euler_step(x, denoised, sigma, to, eta, noise, s_noise) if to > 0 else denoised
        else:
            share = -math.expm1(-h)
            x = x * (down / sigma) + denoised * share
            x = x + (denoised - previous[0]) * ((1 - share / h) * h / previous[1])
            if up:
                x = x + noise(sigma, to) * (up * s_noise)
        previous = (denoised, h)
        yield Step(x, denoised, to)


res_multistep = Sampler(
    _res_multistep,
    a1111="Res Multistep",
    diffusers=multistep("dpmsolver++", "heun"),
    options={"eta": 0.0, "s_noise": 1.0},
)
res_multistep_ancestral = Sampler(partial(_res_multistep, eta=1.0), options={"eta": 1.0, "s_noise": 1.0})
