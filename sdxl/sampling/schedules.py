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

    def timestep(self, sigmas: Sequence[float] | Array) -> Array:
        """The timesteps at noise levels, with fractions."""
        ...


Levels = tuple[Any, Any]  # sequences or arrays of floats
"""Sigmas and timesteps, descending, one of each for every step."""

Choose = Callable[..., Levels]
"""(levels: NoiseLevels, steps, **options) to the sigmas and timesteps at which the steps begin."""


def _all(levels: NoiseLevels) -> int:
    return len(levels.sigmas)


@dataclass(frozen=True)
class SigmaSchedule:
    """A schedule, callable as its function; `options` are its keyword arguments with their defaults. `a1111` is
    AUTOMATIC1111's name, `names` are those of others where they differ from ours, `diffusers` the entries of a
    scheduler's config that ask for it. `most` gives the highest number of steps.
    """

    choose: Choose
    a1111: str | None = None
    diffusers: Mapping[str, object] = field(default_factory=dict)
    most: Callable[[Any], int] = _all
    options: Mapping[str, float | str] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def __call__(self, levels: NoiseLevels, steps: int, **options: Any) -> Levels:
        """Sigmas and timesteps at which the steps begin."""
        return self.choose(levels, steps, **options)


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


def _sgm_uniform(levels: NoiseLevels, steps: int) -> Levels:
    """The first n of n + 1 evenly spaced timesteps, with fractions (ComfyUI)."""
    last = len(levels.sigmas) - 1
    return _between(levels, [last * (1 - k / steps) for k in range(steps)])


def _simple(levels: NoiseLevels, steps: int) -> Levels:
    """Every (N / steps)-th timestep from the last one, the fractions cut off (ComfyUI)."""
    total = len(levels.sigmas)
    return _at(levels, [float(total - 1 - int(k * total / steps)) for k in range(steps)])


def _lcm(levels: NoiseLevels, steps: int) -> Levels:
    """Evenly among the 50 timesteps that consistency models were distilled on (diffusers)."""
    grid = _LCM_STEPS
    each = len(levels.sigmas) // grid
    return _at(levels, [float((grid - k * grid // steps) * each - 1) for k in range(steps)])


def _beta(levels: NoiseLevels, steps: int, alpha: float = 0.6, beta: float = 0.6) -> Levels:
    """Timesteps at the quantiles of a beta distribution (Lee et al. 2024, arXiv 2407.12173; ComfyUI). They are whole
    unless two would be the same.
    """
    import numpy as np

    from .beta import beta_quantiles

    last = len(levels.sigmas) - 1
    exact = beta_quantiles(1 - np.arange(steps) / steps, alpha, beta) * last
    whole = np.rint(exact)
    return _between(levels, whole if len(set(whole)) == steps else exact)


# Sabour et al. 2024 (arXiv 2404.14507), for SDXL in 10 steps
_AYS = (
    *(14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141),
    *(0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582),
)


def _align_your_steps(levels: NoiseLevels, steps: int) -> Levels:
    """The published list for SDXL; for another number of steps as its authors say, between the logarithms."""
    import numpy as np

    places = np.linspace(0, len(_AYS) - 1, steps + 1)[:-1]
    sigmas = np.exp(np.interp(places, np.arange(len(_AYS)), np.log(_AYS)))
    return sigmas, levels.timestep(sigmas)


def _kl_optimal(levels: NoiseLevels, steps: int) -> Levels:
    """Evenly spaced arcs of tangent sigma (Sabour et al. 2024, arXiv 2404.14507, theorem 3.1)."""
    import numpy as np

    low, high = np.arctan(levels.sigmas[0]), np.arctan(levels.sigmas[-1])
    sigmas = np.tan(low + _ramp(steps) * (high - low))
    return sigmas, levels.timestep(sigmas)


def _karras(levels: NoiseLevels, steps: int, rho: float = 7) -> Levels:
    """Karras et al. 2022 (arXiv 2206.00364), equation 5, over all of the model's noise levels."""
    import numpy as np

    low, high = levels.sigmas[0] ** (1 / rho), levels.sigmas[-1] ** (1 / rho)
    sigmas = (low + _ramp(steps) * (high - low)) ** rho
    return sigmas, np.round(levels.timestep(sigmas))


def _exponential(levels: NoiseLevels, steps: int) -> Levels:
    """Evenly spaced logarithms of the noise level."""
    import numpy as np

    low, high = np.log(levels.sigmas[0]), np.log(levels.sigmas[-1])
    sigmas = np.exp(low + _ramp(steps) * (high - low))
    return sigmas, levels.timestep(sigmas)


def _at(levels: NoiseLevels, timesteps: Sequence[float]) -> Levels:
    return levels.sigma(timesteps), timesteps


def _between(levels: NoiseLevels, timesteps: Sequence[float] | Array) -> Levels:
    """Noise levels at timesteps with fractions, between the logarithms of the training's, as in k-diffusion."""
    import numpy as np

    return np.exp(np.interp(timesteps, np.arange(len(levels.sigmas)), np.log(levels.sigmas))), timesteps


def _ramp(steps: int) -> Array:
    """From 1 to 0."""
    import numpy as np

    return np.linspace(1, 0, steps) if steps > 1 else np.ones(1)


_LCM_STEPS = 50

SCHEDULES = ScheduleTable(
    leading=SigmaSchedule(
        _leading,
        diffusers={"timestep_spacing": "leading"},
        most=lambda levels: len(levels.sigmas) - levels.steps_offset,
        names=("ddim_uniform", "DDIM"),
    ),
    trailing=SigmaSchedule(_trailing, diffusers={"timestep_spacing": "trailing"}, names=("Turbo",)),
    sgm=SigmaSchedule(_sgm),
    linspace=SigmaSchedule(
        _linspace, a1111="Uniform", diffusers={"timestep_spacing": "linspace"}, names=("normal", "discrete")
    ),
    karras=SigmaSchedule(_karras, a1111="Karras", diffusers={"use_karras_sigmas": True}, options={"rho": 7}),
    exponential=SigmaSchedule(
        _exponential, a1111="Exponential", diffusers={"use_exponential_sigmas": True}, names=("Polyexponential",)
    ),
    sgm_uniform=SigmaSchedule(_sgm_uniform, a1111="SGM Uniform"),
    simple=SigmaSchedule(_simple, a1111="Simple"),
    beta=SigmaSchedule(_beta, a1111="Beta", options={"alpha": 0.6, "beta": 0.6}),
    align_your_steps=SigmaSchedule(_align_your_steps, a1111="Align Your Steps", names=("ays", "AYS SDXL")),
    kl_optimal=SigmaSchedule(_kl_optimal, a1111="KL Optimal"),
    lcm=SigmaSchedule(_lcm, most=lambda levels: _LCM_STEPS),
)
