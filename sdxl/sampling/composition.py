"""Guidance by prompts that change from step to step, and by several prompts at once (AND)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .guidance import NEGATIVE, PERTURBED, POSITIVE, Guidance, is_perturbed, perturbed
from .prediction import Point


@dataclass(frozen=True)
class Timeline:
    """Which branch is in force: `names[i]` up to step `lasts[i]`, counted from 1."""

    names: tuple[str, ...]
    lasts: tuple[int, ...]

    def at(self, step: int) -> str:
        """The branch of a step."""
        return next((name for name, last in zip(self.names, self.lasts, strict=True) if step <= last), self.names[-1])


@dataclass(frozen=True)
class Composition:
    """A `Guider` whose positive prediction is u + sum of w (c - u) over its parts (Liu et al. 2022, arXiv 2206.01714),
    each with a weight for each image; `guidance` then acts on it as on a prompt's. `sigmas` are those of the steps.
    With `calls` the timelines count the network's calls in place of steps, from 0, and a step has so many.
    """

    guidance: Guidance
    parts: tuple[tuple[Timeline, tuple[float, ...]], ...]
    negative: Timeline
    sigmas: tuple[float, ...]
    calls: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """All branches: the negative ones first, the perturbed ones last."""
        negative = self.negative.names if self._needs_negative or NEGATIVE in self.guidance.names else ()
        positives = [name for timeline, _ in self.parts for name in timeline.names]
        return (*negative, *positives, *(map(perturbed, positives) if PERTURBED in self.guidance.names else ()))

    @property
    def _needs_negative(self) -> bool:
        """Whether the weights of some image do not add up to 1."""
        return any(abs(sum(weights) - 1) > 1e-9 for weights in zip(*(own for _, own in self.parts), strict=True))

    def branches(self, sigma: float) -> tuple[str, ...]:
        """Those of the step that begins at this sigma, or at the next higher one."""
        step = max(1, self._call(sigma) if self.calls else self._step(sigma))
        acting = self.guidance.branches(sigma)
        negative = (self.negative.at(step),) if self._needs_negative or NEGATIVE in acting else ()
        positives = [timeline.at(step) for timeline, _ in self.parts]
        return (*negative, *positives, *(map(perturbed, positives) if PERTURBED in acting else ()))

    def _step(self, sigma: float) -> int:
        """The number of the step of a call, from 1."""
        return sum(each >= sigma for each in self.sigmas[:-1])

    def _call(self, sigma: float) -> int:
        """The number of a call, from 0. The second one of a step lies between its sigmas; one at the next sigma, which
        heun has, counts as the first one of the next step.
        """
        begins = self.sigmas[:-1]
        return self.calls * max(self._step(sigma) - 1, 0) + (self.calls > 1 and sigma not in begins)

    def combine(self, outputs: Mapping[str, Tensor], point: Point) -> Tensor:
        """The parts as one prediction, and guidance away from the negative one where it acts."""
        own = {name: output for name, output in outputs.items() if name in self.negative.names}
        negative = next(iter(own.values()), None)
        others = {name: output for name, output in outputs.items() if name not in own}
        positives = [output for name, output in others.items() if not is_perturbed(name)]
        composed = {POSITIVE: self._composed(positives, negative)}
        if changed := [output for name, output in others.items() if is_perturbed(name)]:
            composed[PERTURBED] = self._composed(changed, negative)
        if negative is None or NEGATIVE not in self.guidance.branches(point.sigma):
            return self.guidance.combine(composed, point)
        return self.guidance.combine({NEGATIVE: negative, **composed}, point)

    def _composed(self, positives: Sequence[Tensor], negative: Tensor | None) -> Tensor:
        if len(positives) == 1 and not self._needs_negative:
            return positives[0]
        total = torch.zeros_like(positives[0]) if negative is None else negative
        for output, (_, own) in zip(positives, self.parts, strict=True):
            weight = torch.tensor(own, dtype=torch.float32).to(output).reshape(-1, 1, 1, 1)
            total = total + weight * (output if negative is None else output - negative)
        return total
