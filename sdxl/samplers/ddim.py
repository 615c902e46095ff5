"""DDIM (Song et al. 2020, arXiv 2010.02502).

In sigma space it is Euler's step; what makes it DDIM is that its list of sigmas ends at sigma(0) instead of 0 and that
its result is scaled back by 1 / sqrt(1 + sigma(0)^2), both of which the `Schedule` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from .euler import euler
from .step import Denoiser, Noise, Step


def ddim(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 0.0) -> Iterator[Step]:
    """First order; `eta` 0 is deterministic, 1 draws as much noise as the DDPM sampler."""
    yield from euler(denoise, x, sigmas, noise, eta)
