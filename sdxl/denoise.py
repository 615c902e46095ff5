"""From a network to a denoiser: input scaling, prediction type and classifier-free guidance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .samplers import Denoiser
from .schedule import Schedule


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told beside the timestep: context (B, 77, D) and vector (B, V)."""

    context: Tensor
    vector: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditioning:
        return Conditioning(self.context.to(device, dtype), self.vector.to(device, dtype))


class Network(Protocol):
    """A UNet."""

    def __call__(self, x: Tensor, t: Tensor, context: Tensor, vector: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598). At a `scale` of at most 1 there is none."""

    scale: float = 1.0
    rescale: float = 0.0

    @property
    def active(self) -> bool:
        return self.scale > 1

    def combine(self, negative: Tensor, positive: Tensor) -> Tensor:
        """Combine the network's raw outputs, (B, C, H, W) each.

        `rescale` is phi of Lin et al. 2023 (arXiv 2305.08891, equations 15 and 16).
        """
        guided = negative + self.scale * (positive - negative)
        if not self.rescale:
            return guided
        axes = tuple(range(1, guided.ndim))
        ratio = positive.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
        return guided * (self.rescale * ratio + 1 - self.rescale)


def make_denoiser(
    network: Network,
    schedule: Schedule,
    prediction: str,
    guidance: Guidance,
    positive: Conditioning,
    negative: Conditioning,
) -> Denoiser:
    """A `Denoiser` over float32 x. The network runs in the dtype of `positive`, everything else in float32."""
    both = Conditioning(torch.cat([negative.context, positive.context]), torch.cat([negative.vector, positive.vector]))
    given = both if guidance.active else positive

    def denoise(x: Tensor, sigma: float) -> Tensor:
        scale = 1 / math.sqrt(sigma**2 + 1)
        scaled = (x * scale).to(given.context.dtype)
        if guidance.active:
            scaled = torch.cat([scaled, scaled])
        t = torch.full((len(scaled),), schedule.timestep(sigma), dtype=torch.float32, device=x.device)
        output = network(scaled, t, given.context, given.vector).to(x.dtype)
        if guidance.active:
            output = guidance.combine(*output.chunk(2))
        if prediction == "v_prediction":  # Salimans & Ho 2022, arXiv 2202.00512, appendix D, in sigma space
            return x * scale**2 - output * (sigma * scale)
        return x - output * sigma

    return denoise
