"""The steps in which something that a request names acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OUTSIDE = "no step lies within its start and end"


@dataclass(frozen=True)
class Window:
    """From the share `start` of `steps` steps to the share `end`: of the steps that run, as diffusers counts."""

    start: float
    end: float
    steps: int

    def acts(self, step: int) -> bool:
        """Whether step number `step`, counted from 0, lies within it as a whole."""
        return step / self.steps >= self.start and (step + 1) / self.steps <= self.end

    @property
    def is_empty(self) -> bool:
        """Whether it has no step at all."""
        return not any(map(self.acts, range(self.steps)))


def step_at(sigma: float, sigmas: Sequence[float]) -> int:
    """The number of the step that begins at a noise level, or that is under way there; `sigmas` are those of the steps,
    and the last one behind them.
    """
    return max(sum(each >= sigma for each in sigmas[:-1]) - 1, 0)
