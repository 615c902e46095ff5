"""The noise of a batch: standard normal tensors from CPU float32 generators, or from those of the caller."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..sampling.brownian import BrownianPath


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

    def paths(self, seeds: Sequence[int], sigmas: Sequence[float]) -> PathNoise:
        """Noise from a path for each image over all of these noise levels. Its seed is the image's own, or where
        generators of the caller are not those of the seeds, a number that they draw.
        """
        if [each.initial_seed() for each in self.generators] != list(seeds):
            each_of = [self.generators[i % len(self.generators)] for i in range(self.count)]
            seeds = [int(torch.randint(2**63 - 1, (), generator=each, device=each.device)) for each in each_of]
        low, high = min(filter(None, sigmas)), max(sigmas)
        return PathNoise([BrownianPath(seed, low, high, self.shape) for seed in seeds], self.device)


class PathNoise:
    """Standard normal tensors (B, C, h, w) from a Brownian path of each image: those of an image depend neither on the
    others nor on the number of steps.
    """

    def __init__(self, paths: Sequence[BrownianPath], device: torch.device) -> None:
        self.each, self.device = paths, device

    def __call__(self, sigma: float, to: float) -> Tensor:
        """The noise of a step from `sigma` to `to`."""
        return torch.stack([path(sigma, to) for path in self.each]).to(self.device)
