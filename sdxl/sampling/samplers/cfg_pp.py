"""CFG++ (Chung et al. 2024, arXiv 2406.08070): the guess is the guided one, the noise is that of the negative prompt.

Made for a guidance of 0 to 2. Where guidance is off these are the samplers without CFG++.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from ..sampler import Noise, PairDenoiser, Sampler, Step, split

if TYPE_CHECKING:
    from torch import Tensor


def _euler_cfg_pp(
    denoise: PairDenoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """First order, deterministic at `eta` 0. The share `eta` of the noise is drawn again at each step."""
    for sigma, to in pairwise(sigmas):
        denoised, negative = denoise.pair(x, sigma)
        down, up = split(sigma, to, eta)
        x = denoised + (x - negative) * (down / sigma)
        if up:
            x = x + noise(sigma, to) * (up * s_noise)
        yield Step(x, denoised, to)


euler_cfg_pp = Sampler(_euler_cfg_pp, a1111="Euler CFG++", with_pair=True)
euler_ancestral_cfg_pp = Sampler(
    partial(_euler_cfg_pp, eta=1.0), a1111="Euler a CFG++", options={"eta": 1.0, "s_noise": 1.0}, with_pair=True
)
