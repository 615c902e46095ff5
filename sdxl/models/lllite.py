"""ControlNet-LLLite (github.com/kohya-ss/sd-scripts, docs/train_lllite_README.md): small networks that change the
inputs of a UNet's queries, keys and values, token by token, by what a control image shows there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .control_config import LLLiteConfig, LLLitePlace
from .layers import Conv2d, Linear


class Place(nn.Module):
    """The network of one projection."""

    def __init__(self, config: LLLitePlace) -> None:
        super().__init__()
        sizes = zip(pairwise((3, *config.channels)), config.kernels, strict=True)
        self.encoder = nn.ModuleList(Conv2d(i, o, kernel, stride=kernel) for (i, o), kernel in sizes)
        self.down = Linear(config.dim, config.rank)
        self.mid = Linear(config.channels[-1] + config.rank, config.rank)
        self.up = Linear(config.rank, config.dim)

    def encode(self, x: Tensor) -> Tensor:
        """An image (B, 3, H, W) in -1..1 to a feature for each token (B, L, C), the same in all steps."""
        for n, conv in enumerate(self.encoder):
            x = conv(F.relu(x) if n else x)
        return rearrange(x, "b c h w -> b (h w) c")

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """What is added to x (B, L, dim), whose rows are branch by branch those of the features (1 or b, L, C)."""
        features = features.repeat(len(x) // len(features), 1, 1)
        return self.up(F.relu(self.mid(torch.cat([features, F.relu(self.down(x))], dim=-1))))


@dataclass(frozen=True)
class Shift:
    """The change of a projection's input, for a control image that is encoded to `features`. `scale` is a tensor of one
    number, so that one recorded graph serves every scale.
    """

    place: Place
    features: Tensor
    scale: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, L, dim) and what is added to it."""
        return x + self.place(x, self.features) * self.scale


class LLLite(nn.Module):
    """The networks of all projections, in the order of its config."""

    def __init__(self, config: LLLiteConfig) -> None:
        super().__init__()
        self.config = config
        self.places = nn.ModuleList(Place(place) for place in config.places)

    def forward(self, image: Tensor) -> list[Tensor]:
        """The features of a control image (B, 3, H, W) in 0..1 for each projection."""
        x = 2 * image - 1  # as its training had it
        return [place.encode(x) for place in self._each()]

    def shifts(self, features: Sequence[Tensor], scale: float) -> dict[str, Shift]:
        """The changes of the inputs of projections, by their names in the UNet."""
        strength = torch.tensor(scale, dtype=torch.float32, device=features[0].device)
        each = zip(self.config.places, self._each(), features, strict=True)
        return {config.layer: Shift(place, own, strength) for config, place, own in each}

    def _each(self) -> list[Place]:
        return cast("list[Place]", list(self.places))
