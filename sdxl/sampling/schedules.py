"""The schedules: which noise levels a number of steps visits, a function for each, in one table.

x = z + sigma * noise. Imports no NumPy before it is needed, so that the names can be listed without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


class NoiseLevels(Protocol):
    """The noise levels that a model was trained on: `sigmas` (N,), ascending, one for each training timestep."""

    @property
    def sigmas(self) -> Array: ...

    @property
    def steps_offset(self) -> int:
        """What the `leading` schedule adds to its timesteps."""
        ...

    def sigma(self, timesteps: Sequence[float]) -> Array:
        """The noise levels at timesteps, which may have fractions."""
        ...

    def timestep(self, sigmas: Array) -> Array:
        """The timesteps at noise levels, with fractions."""
        ...


Levels = tuple[Any, Any]  # sequences or arrays of floats
"""Sigmas and timesteps, descending, one of each for every step."""

Choose = Callable[[Any, int], Levels]
"""(levels: NoiseLevels, steps) to the sigmas and timesteps at which the steps begin."""


def _all(levels: NoiseLevels) -> int:
    return len(levels.sigmas)


@dataclass(frozen=True)
class SigmaSchedule:
    """A schedule, callable as its function. `a1111` is AUTOMATIC1111's name, `diffusers` the entries of a scheduler's
    config that ask for it. `most` gives the highest number of steps.
    """

    choose: Choose
    a1111: str | None = None
    diffusers: Mapping[str, object] = field(default_factory=dict)
    most: Callable[[Any], int] = _all

    def __call__(self, levels: NoiseLevels, steps: int) -> Levels:
        """Sigmas and timesteps at which the steps begin."""
        return self.choose(levels, steps)


class ScheduleTable(dict[str, SigmaSchedule]):
    """Schedules by name. A bare function that is put in becomes a record without names in other tools."""

    def __setitem__(self, name: str, schedule: SigmaSchedule | Choose) -> None:
        super().__setitem__(name, schedule if isinstance(schedule, SigmaSchedule) else SigmaSchedule(schedule))


def _leading(levels: NoiseLevels, steps: int) -> Levels:
    """Every (N // steps)-th timestep from the offset on: the published default of SDXL."""
    total = len(levels.sigmas)
    timesteps = [float((steps - 1 - k) * (total // steps) + levels.steps_offset) for k in range(steps)]
    return _at(levels, timesteps)


def _trailing(levels: NoiseLevels, steps: int) -> Levels:
    """Every (N / steps)-th timestep, the last one first."""
    total = len(levels.sigmas)
    return _at(levels, [float(round(total - k * total / steps) - 1) for k in range(steps)])


def _sgm(levels: NoiseLevels, steps: int) -> Levels:
    """Stability's code (sgm's LegacyDDPMDiscretization), which cuts the fractions of the timesteps off."""
    last = len(levels.sigmas) - 1
    return _at(levels, [float(int(last - k * last / steps)) for k in range(steps)])


def _linspace(levels: NoiseLevels, steps: int) -> Levels:
    """Evenly spaced timesteps from the last to the first, with fractions."""
    last = len(levels.sigmas) - 1
    return _at(levels, [last * (1 - k / max(steps - 1, 1)) for k in range(steps)])


def _karras(levels: NoiseLevels, steps: int) -> Levels:
    """Karras et al. 2022 (arXiv 2206.00364), equation 5, rho = 7, over all of the model's noise levels."""
    import numpy as np

    low, high = levels.sigmas[0] ** (1 / 7), levels.sigmas[-1] ** (1 / 7)
    sigmas = (low + _ramp(steps) * (high - low)) ** 7
    return sigmas, np.round(levels.timestep(sigmas))


def _exponential(levels: NoiseLevels, steps: int) -> Levels:
    """Evenly spaced logarithms of the noise level."""
    import numpy as np

    low, high = np.log(levels.sigmas[0]), np.log(levels.sigmas[-1])
    sigmas = np.exp(low + _ramp(steps) * (high - low))
    return sigmas, levels.timestep(sigmas)


def _at(levels: NoiseLevels, timesteps: Sequence[float]) -> Levels:
    return levels.sigma(timesteps), timesteps


def _ramp(steps: int) -> Array:
    """From 1 to 0."""
    import numpy as np

    return np.linspace(1, 0, steps) if steps > 1 else np.ones(1)


SCHEDULES = ScheduleTable(
    leading=SigmaSchedule(
        _leading,
        diffusers={"timestep_spacing": "leading"},
        most=lambda levels: len(levels.sigmas) - levels.steps_offset,
    ),
    trailing=SigmaSchedule(_trailing, a1111="Simple", diffusers={"timestep_spacing": "trailing"}),
    sgm=SigmaSchedule(_sgm),
    linspace=SigmaSchedule(_linspace, a1111="Uniform", diffusers={"timestep_spacing": "linspace"}),
    karras=SigmaSchedule(_karras, a1111="Karras", diffusers={"use_karras_sigmas": True}),
    exponential=SigmaSchedule(_exponential, a1111="Exponential", diffusers={"use_exponential_sigmas": True}),
)
