"""Variations: the first noise of each image on the way to that of another seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .noise import Noise, PathNoise

_LEAST_SINE = 1e-3  # of an angle between two columns; below it they are mixed along a line


class VariedNoise:
    """The noise of a batch whose first tensor lies between its own and that of `other`, at `strength` 0 to 1. All later
    noise is its own; the other's generators keep pace, so that a second pass has their next noise too.
    """

    def __init__(self, own: Noise, other: Noise, strength: float) -> None:
        self.own, self.other, self.strength, self.device = own, other, strength, own.device

    def first(self) -> Tensor:
        """The noise that the steps start from, (B, C, h, w)."""
        pairs = zip(self.own.draw(), self.other.draw(), strict=True)
        return torch.stack([slerp(own, other, self.strength) for own, other in pairs])

    def draw(self, sources: int | None = None) -> Tensor:
        """As `Noise.draw`."""
        self.other.draw()
        return self.own.draw(sources)

    def __call__(self, sigma: float, to: float) -> Tensor:
        """The noise of a step from `sigma` to `to`."""
        self.other.draw()
        return self.own(sigma, to)

    def paths(self, seeds: Sequence[int], sigmas: Sequence[float]) -> PathNoise:
        """As `Noise.paths`."""
        return self.own.paths(seeds, sigmas)


BatchNoise = Noise | VariedNoise


def varied(noise: Noise, others: Sequence[torch.Generator], strength: float | None) -> BatchNoise:
    """The noise of a batch, varied with that of the generators `others`, one for each image, if there are any."""
    if not others:
        return noise
    return VariedNoise(noise, Noise(others, noise.count, noise.shape, noise.device), strength or 0.0)


def first_noise(noise: BatchNoise) -> Tensor:
    """The noise that the steps start from, (B, C, h, w)."""
    return noise.first() if isinstance(noise, VariedNoise) else noise.draw()


def slerp(own: Tensor, other: Tensor, strength: float) -> Tensor:
    """Between two tensors (C, h, w), along an arc for each column of each channel, as in AUTOMATIC1111: 0 gives `own`,
    1 `other`, both exactly. (One arc for the whole tensor would be another image.)
    """
    cosine = (own / own.norm(dim=1, keepdim=True) * (other / other.norm(dim=1, keepdim=True))).sum(dim=1, keepdim=True)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    is_arc = sine > _LEAST_SINE
    kept = torch.where(is_arc, ((1 - strength) * angle).sin() / sine, 1 - strength)
    taken = torch.where(is_arc, (strength * angle).sin() / sine, strength)
    return kept * own + taken * other
