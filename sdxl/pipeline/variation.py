"""Variations: the first noise of each image on the way to that of another seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .noise import Noise, Shape, make_noise, other_noise, second_noise
from .plan import Plan

_LEAST_SINE = 1e-3  # of an angle between two columns; below it they are mixed along a line


class VariedNoise:
    """The noise of a batch whose first tensor lies between its own and that of `other`, at `strength` 0 to 1. All later
    noise is its own; the other's sources keep pace, so that a second pass has their next noise too.
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


BatchNoise = Noise | VariedNoise


def noise_of_pass(
    plan: Plan,
    before: BatchNoise | None,
    shape: Shape,
    device: torch.device,
    given: Sequence[torch.Generator] | None = None,
) -> BatchNoise:
    """The noise of a pass over images of a shape (C, h, w), varied if the plan says so. `before` is that of the pass
    before, which goes on or begins again, by the conventions. `given` are generators of the caller.
    """
    own = make_noise(plan, shape, device, given) if before is None else second_noise(plan, before.own, shape)
    if not plan.variation_seeds:
        return own
    goes_on = isinstance(before, VariedNoise) and own.goes_on
    other = before.other.resized(shape) if isinstance(before, VariedNoise) and goes_on else other_noise(plan, own)
    return VariedNoise(own, other, plan.request.variation_strength or 0.0)


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
