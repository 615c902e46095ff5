"""What the samplers share: the types, and the one step of Euler's method with fresh noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Denoiser(Protocol):
    """Guesses z from x = z + sigma * noise."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor: ...


Noise = Callable[[], Tensor]
"""Draws the next standard normal tensor of x's shape."""


@dataclass(frozen=True)
class Step:
    """The state after a step: `x` at noise level `sigma`, and the guess `denoised` that led there."""

    x: Tensor
    denoised: Tensor
    sigma: float


Sampler = Callable[[Denoiser, Tensor, Sequence[float], Noise], Iterator[Step]]


def euler_step(x: Tensor, denoised: Tensor, sigma: float, to: float, eta: float, noise: Noise) -> Tensor:
    """From `sigma` down to `to` along (x - denoised) / sigma, with the share `eta` of the noise drawn anew.

    eta 0 is Euler's method, 1 is ancestral sampling; on VP-scaled latents it is DDIM (Song et al. 2020,
    arXiv 2010.02502, equation 12), whose variance is here sigma_up^2 = eta^2 to^2 (sigma^2 - to^2) / sigma^2.
    """
    up = eta * to * math.sqrt(max(sigma**2 - to**2, 0.0)) / sigma
    down = math.sqrt(max(to**2 - up**2, 0.0))
    x = denoised + (x - denoised) * (down / sigma)
    return x + noise() * up if eta else x
