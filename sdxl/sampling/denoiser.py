"""From a network to a denoiser: input scaling, prediction type, and the combination of guidance branches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models.schedule_config import PREDICTIONS
from .guidance import NEGATIVE, Guider
from .prediction import Point, make_point
from .schedule import Schedule


class Network(Protocol):
    """A UNet with its conditioning: scaled latents x (B, C, H, W) and the timestep in, the raw output (B, C, H, W)
    out.
    """

    def __call__(self, x: Tensor, t: float) -> Tensor: ...


Networks = Callable[[tuple[str, ...], float], Network]
"""The network of some guidance branches at a noise level: its batch holds the rows of each branch, one branch after the
other."""


@dataclass(frozen=True)
class NetworkDenoiser:
    """A `PairDenoiser` over float32 x. The networks run in `dtype`, everything else in float32; `negatives` are the
    branches of the negative prompt. `prediction` and `sigma_data` say what an output means: see `make_point`. `memory`
    is what the guider keeps from call to call.
    """

    networks: Networks
    schedule: Schedule
    prediction: str
    guider: Guider
    dtype: torch.dtype
    negatives: Collection[str]
    sigma_data: float
    memory: dict[str, Any] = field(default_factory=dict)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        point = self._point(x, sigma)
        return point.denoised(self.guider.combine(self._outputs(point), point))

    def pair(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """The guess, and the one for the negative prompt alone; the same twice where guidance is off."""
        point = self._point(x, sigma)
        outputs = self._outputs(point)
        guess = point.denoised(self.guider.combine(outputs, point))
        negatives = [output for name, output in outputs.items() if name in self.negatives]
        return guess, point.denoised(negatives[0]) if negatives else guess

    def _point(self, x: Tensor, sigma: float) -> Point:
        level = self.schedule.table.level(sigma)
        point = make_point(x, level, self.prediction, self.sigma_data, self.memory)
        return point if level == sigma else replace(point, sigma=sigma)

    def _outputs(self, point: Point) -> Mapping[str, Tensor]:
        """The raw output for each of the branches that the step needs."""
        scaled, t = (point.x * point.scale).to(self.dtype), self.schedule.timestep(point.sigma)
        branches = self.guider.branches(point.sigma)
        batch = torch.cat([scaled] * len(branches)) if len(branches) > 1 else scaled
        outputs = self.networks(branches, point.sigma)(batch, t).to(point.x.dtype).chunk(len(branches))
        return dict(zip(branches, outputs, strict=True))


def make_denoiser(
    networks: Networks,
    schedule: Schedule,
    prediction: str,
    guider: Guider,
    dtype: torch.dtype,
    negatives: Collection[str] = (NEGATIVE,),
    sigma_data: float = 1.0,
) -> NetworkDenoiser:
    """A denoiser over float32 x. The network runs in `dtype`, everything else in float32. `prediction` is one of
    `PREDICTIONS`. Raises `ArgumentError`.
    """
    if prediction not in PREDICTIONS:
        raise ArgumentError(f"prediction is {prediction!r}; it must be one of {', '.join(PREDICTIONS)}")
    return NetworkDenoiser(networks, schedule, prediction, guider, dtype, negatives, sigma_data)
