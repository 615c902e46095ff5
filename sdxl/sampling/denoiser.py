"""From a network to a denoiser: input scaling, prediction type, and the combination of guidance branches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .guidance import Guider
from .sampler import Denoiser
from .schedule import Schedule


class Network(Protocol):
    """A UNet with its conditioning: scaled latents x (B, C, H, W) and the timestep in, the raw output (B, C, H, W)
    out.
    """

    def __call__(self, x: Tensor, t: float) -> Tensor: ...


Networks = Callable[[tuple[str, ...]], Network]
"""The network of some guidance branches: its batch holds the rows of each branch, one branch after the other."""


def make_denoiser(
    networks: Networks, schedule: Schedule, prediction: str, guider: Guider, dtype: torch.dtype
) -> Denoiser:
    """A `Denoiser` over float32 x. The network runs in `dtype`, everything else in float32."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        scale = 1 / math.sqrt(sigma**2 + 1)
        scaled, t = (x * scale).to(dtype), schedule.timestep(sigma)
        branches = guider.branches(sigma)
        batch = torch.cat([scaled] * len(branches)) if len(branches) > 1 else scaled
        outputs = networks(branches)(batch, t).to(x.dtype).chunk(len(branches))
        output = guider.combine(dict(zip(branches, outputs, strict=True)))
        if prediction == "v_prediction":  # Salimans & Ho 2022, arXiv 2202.00512, appendix D, in sigma space
            return x * scale**2 - output * (sigma * scale)
        return x - output * sigma

    return denoise
