"""From a network to a denoiser: input scaling, prediction type, and the combination of guidance branches."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .guidance import NEGATIVE, Guider
from .schedule import Schedule


class Network(Protocol):
    """A UNet with its conditioning: scaled latents x (B, C, H, W) and the timestep in, the raw output (B, C, H, W)
    out.
    """

    def __call__(self, x: Tensor, t: float) -> Tensor: ...


Networks = Callable[[tuple[str, ...]], Network]
"""The network of some guidance branches: its batch holds the rows of each branch, one branch after the other."""


@dataclass(frozen=True)
class NetworkDenoiser:
    """A `PairDenoiser` over float32 x. The networks run in `dtype`, everything else in float32; `negatives` are the
    branches of the negative prompt.
    """

    networks: Networks
    schedule: Schedule
    prediction: str
    guider: Guider
    dtype: torch.dtype
    negatives: Collection[str] = (NEGATIVE,)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self._guess(x, sigma, self.guider.combine(self._outputs(x, sigma)))

    def pair(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """The guess, and the one for the negative prompt alone; the same twice where guidance is off."""
        outputs = self._outputs(x, sigma)
        guess = self._guess(x, sigma, self.guider.combine(outputs))
        negatives = [output for name, output in outputs.items() if name in self.negatives]
        return guess, self._guess(x, sigma, negatives[0]) if negatives else guess

    def _outputs(self, x: Tensor, sigma: float) -> Mapping[str, Tensor]:
        """The raw output for each of the branches that the step needs."""
        scaled, t = (x * _input_scale(sigma)).to(self.dtype), self.schedule.timestep(sigma)
        branches = self.guider.branches(sigma)
        batch = torch.cat([scaled] * len(branches)) if len(branches) > 1 else scaled
        outputs = self.networks(branches)(batch, t).to(x.dtype).chunk(len(branches))
        return dict(zip(branches, outputs, strict=True))

    def _guess(self, x: Tensor, sigma: float, output: Tensor) -> Tensor:
        """z as a raw output of the network means it."""
        if self.prediction == "v_prediction":  # Salimans & Ho 2022, arXiv 2202.00512, appendix D, in sigma space
            scale = _input_scale(sigma)
            return x * scale**2 - output * (sigma * scale)
        return x - output * sigma


def _input_scale(sigma: float) -> float:
    return 1 / math.sqrt(sigma**2 + 1)


def make_denoiser(
    networks: Networks,
    schedule: Schedule,
    prediction: str,
    guider: Guider,
    dtype: torch.dtype,
    negatives: Collection[str] = (NEGATIVE,),
) -> NetworkDenoiser:
    """A denoiser over float32 x. The network runs in `dtype`, everything else in float32."""
    return NetworkDenoiser(networks, schedule, prediction, guider, dtype, negatives)
