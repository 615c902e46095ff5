"""Linear multistep (Adams-Bashforth on the steps as they lie; k-diffusion's lms)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

from ..sampler import Denoiser, Noise, Sampler, Scheduler, Step

if TYPE_CHECKING:
    from torch import Tensor


def _weight(nodes: Sequence[float], which: int, to: float) -> float:
    """The integral from nodes[0] to `to` of Lagrange's polynomial that is 1 at one of up to four nodes and 0 at the
    others: by Simpson's rule, which is exact for cubics.
    """

    def lagrange(sigma: float) -> float:
        own = nodes[which]
        return prod((sigma - node) / (own - node) for k, node in enumerate(nodes) if k != which)

    begin, middle = nodes[0], (nodes[0] + to) / 2
    return (to - begin) / 6 * (lagrange(begin) + 4 * lagrange(middle) + lagrange(to))


def _lms(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    order: int = 4,
    extrapolates_last: bool = False,
) -> Iterator[Step]:
    """A polynomial through the last `order` slopes (1 to 4), deterministic. The step to sigma 0 takes the guess, as in
    ComfyUI: a polynomial `extrapolates_last` in k-diffusion and diffusers, and spoils images there.
    """
    slopes: list[Tensor] = []  # newest first
    for i, (sigma, to) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        slopes = [(x - denoised) / sigma, *slopes[: order - 1]]
        nodes = [sigmas[i - k] for k in range(len(slopes))]
        if to == 0 and not extrapolates_last:
            x = denoised
        else:
            for k, slope in enumerate(slopes):
                x = x + slope * _weight(nodes, k, to)
        yield Step(x, denoised, to)


lms = Sampler(
    _lms,
    a1111="LMS",
    diffusers=Scheduler("LMSDiscreteScheduler"),
    options={"order": 4},
    starts_at_sigma=("linspace", "trailing"),
    names=("k_lms",),
)
