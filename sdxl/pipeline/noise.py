"""The noise of a batch: standard normal tensors from CPU float32 generators, or from those of the caller."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Noise:
    """Standard normal tensors (B, C, h, w), each image's from a generator of its own: an image depends neither on the
    others of its batch nor on the device. A single generator for several images draws the whole batch at once.
    """

    def __init__(
        self, generators: Sequence[torch.Generator], count: int, shape: tuple[int, int, int], device: torch.device
    ) -> None:
        self.generators, self.count, self.shape, self.device = generators, count, shape, device

    def draw(self, sources: int | None = None) -> Tensor:
        """The next tensor (B, C, h, w). Of a single generator, where the noise belongs to so many source images that
        the batch shares, that of each source.
        """
        if len(self.generators) == self.count:
            return torch.cat([self._randn(1, generator) for generator in self.generators]).to(self.device)
        rows = sources or self.count
        return self._randn(rows, self.generators[0]).to(self.device).repeat_interleave(self.count // rows, dim=0)

    def _randn(self, rows: int, generator: torch.Generator) -> Tensor:
        shape = (rows, *self.shape)
        return torch.randn(shape, generator=generator, dtype=torch.float32, device=generator.device)

    def __call__(self, sigma: float, to: float) -> Tensor:
        """The noise of a step from `sigma` to `to`: the next tensor."""
        return self.draw()
