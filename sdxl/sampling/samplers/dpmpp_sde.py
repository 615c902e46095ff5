"""DPM-Solver++ (2M) and (3M) with noise (Lu et al. 2022, arXiv 2211.01095, appendix B; k-diffusion's names).

They solve the SDE of Karras et al. 2022 whose noise `eta` scales; at `eta` 0 they are deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from ..sampler import Denoiser, Noise, Sampler, Step
from .dpmpp import multistep

if TYPE_CHECKING:
    from torch import Tensor


def _first_order(x: Tensor, denoised: Tensor, sigma: float, to: float, eta: float) -> tuple[Tensor, float]:
    """The step as if the guess were constant, without its noise, and the share of the guess in it."""
    h = math.log(sigma / to)
    share = -math.expm1(-h * (1 + eta))
    return x * (to / sigma * math.exp(-eta * h)) + denoised * share, share


def _noise(noise: Noise, sigma: float, to: float, eta: float, s_noise: float) -> Tensor | float:
    """The noise of a step."""
    if not eta * s_noise:
        return 0.0
    return noise(sigma, to) * (s_noise * to * math.sqrt(-math.expm1(-2 * eta * math.log(sigma / to))))


def _dpmpp_2m_sde(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    eta: float = 1.0,
    s_noise: float = 1.0,
    *,
    weigh: Callable[[float, float], float],
) -> Iterator[Step]:
    """Second order at `eta` 0. `weigh` gives the weight of the last guess but one, of the step's length h (1 + eta) and
    the share of the last guess.
    """
    previous: tuple[Tensor, float] | None = None  # the last guess and the length of its step in log sigma
    for sigma, to in pairwise(sigmas):
        denoised = denoise(x, sigma)
        if to == 0:
            x = denoised
        else:
            h = math.log(sigma / to)
            x, share = _first_order(x, denoised, sigma, to, eta)
            if previous is not None:
                x = x + (denoised - previous[0]) * (weigh(h * (1 + eta), share) * h / previous[1])
            x = x + _noise(noise, sigma, to, eta, s_noise)
            previous = (denoised, h)
        yield Step(x, denoised, to)


_OPTIONS: dict[str, float | str] = {"eta": 1.0, "s_noise": 1.0, "noise": "tree"}

dpmpp_2m_sde = Sampler(
    partial(_dpmpp_2m_sde, weigh=lambda a, share: share / 2),
    a1111="DPM++ 2M SDE",
    diffusers=multistep("sde-dpmsolver++", "midpoint"),
    options=_OPTIONS,
    names=("dpmpp_2m_sde_gpu", "k_dpmpp_2m_sde"),
    automatic="exponential",
)
dpmpp_2m_sde_heun = Sampler(
    partial(_dpmpp_2m_sde, weigh=lambda a, share: 1 - share / a),
    a1111="DPM++ 2M SDE Heun",
    diffusers=multistep("sde-dpmsolver++", "heun"),
    options=_OPTIONS,
    names=("dpmpp_2m_sde_heun_gpu", "k_dpmpp_2m_sde_heun"),
    automatic="exponential",
)


def _dpmpp_3m_sde(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """With the last three guesses; the second step has two, the first one and the step to sigma 0 have one."""
    guesses: list[tuple[Tensor, float]] = []  # the last two, newest first, and the length of their steps in log sigma
    for sigma, to in pairwise(sigmas):
        denoised = denoise(x, sigma)
        if to == 0:
            x = denoised
        else:
            h = math.log(sigma / to)
            x, share = _first_order(x, denoised, sigma, to, eta)
            a = h * (1 + eta)
            second = 1 - share / a
            if guesses:
                near = slope = (denoised - guesses[0][0]) * (h / guesses[0][1])
                if len(guesses) == 2:
                    (one, step), (two, before) = guesses
                    far = (one - two) * (h / before)
                    curve = (near - far) * (h / (step + before))
                    slope = near + curve * (step / h)
                    x = x - curve * (second / a - 0.5)
                x = x + slope * second
            x = x + _noise(noise, sigma, to, eta, s_noise)
            guesses = [(denoised, h), *guesses[:1]]
        yield Step(x, denoised, to)


dpmpp_3m_sde = Sampler(
    _dpmpp_3m_sde,
    a1111="DPM++ 3M SDE",
    options=_OPTIONS,
    names=("dpmpp_3m_sde_gpu", "k_dpmpp_3m_sde"),
    automatic="exponential",
)
