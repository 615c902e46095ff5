"""The options of samplers and schedules beside their defaults: what each means, and its range. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ArgumentError, brief, is_number, warn
from .samplers import SAMPLERS
from .schedules import SCHEDULES

Value = float | str
CUSTOM = "custom"
"""The name of a list of noise levels that is given in place of a schedule's."""


@dataclass(frozen=True)
class Setting:
    """What an option means, and the numbers or the words that it may be."""

    help: str
    least: float = 0.0
    most: float = math.inf
    whole: bool = False
    words: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """The values that it may have, in words."""
        if self.words:
            return " or ".join(self.words)
        kind = "a whole number" if self.whole else "a number"
        return (
            f"{kind} of at least {self.least:g}"
            if math.isinf(self.most)
            else f"{kind}, {self.least:g} to {self.most:g}"
        )

    def accepts(self, value: object) -> bool:
        """Whether a value is in the range."""
        if self.words:
            return value in self.words
        if not is_number(value):
            return False
        number = float(value)
        return self.least <= number <= self.most and not (self.whole and number % 1)


SETTINGS = {
    "eta": Setting("the share of noise that is drawn again at each step", most=1),
    "s_noise": Setting("a factor of that noise", most=10),
    "noise": Setting("tree: one Brownian path for all steps; fresh: new noise at each step", words=("tree", "fresh")),
    "r": Setting("where in a step the middle call lies", 0.01, 1),
    "order": Setting("how many guesses a step takes into account", 1, 4, whole=True),
    "s_churn": Setting("noise that is added before each step, in parts of 1 / steps", most=1e6),
    "s_tmin": Setting("the lowest sigma of such steps"),
    "s_tmax": Setting("the highest sigma of such steps"),
    "rho": Setting("how much karras prefers low sigmas", 0.1, 100),
    "alpha": Setting("beta's first parameter", 0.01, 100),
    "beta": Setting("beta's second parameter", 0.01, 100),
}
"""All options by name; one that is not here may be any number."""


def choices(sampler: str, schedule: str) -> dict[str, Value]:
    """The options of a sampler and of a schedule (or `CUSTOM`) with their defaults, without `eta`, which is an argument
    of its own.
    """
    of_schedule = SCHEDULES[schedule].options if schedule != CUSTOM else {}
    return {name: value for name, value in {**SAMPLERS[sampler].options, **of_schedule}.items() if name != "eta"}


def check_options(given: Mapping[str, Value], sampler: str, schedule: str, eta: float) -> None:
    """Raise `ArgumentError` for an option that the sampler and the schedule do not have, or out of its range. Warn of
    one without effect.
    """
    known = choices(sampler, schedule)
    for name, value in given.items():
        if name == "eta":
            raise ArgumentError("sampler_options has eta, which is an argument of its own. Try eta=")
        if name not in known:
            listed = ", ".join(f"{each}={value}" for each, value in known.items())
            raise ArgumentError(
                f"sampler_options has {brief(name)}, and {sampler} with {schedule} has "
                + (f"{listed}; give one of these" if listed else "no options; leave it out")
            )
        setting = SETTINGS.get(name, Setting("", -math.inf))
        if not setting.accepts(value):
            raise ArgumentError(f"{name} is {brief(value)} in sampler_options; expected {setting.range}")
    if reason := _idle(given, sampler, eta):
        warn(f"{reason[0]} in sampler_options has no effect: {reason[1]}")


def _idle(given: Mapping[str, Value], sampler: str, eta: float) -> tuple[str, str] | None:
    """An option that another one leaves without effect, and why."""
    options = SAMPLERS[sampler].options
    names: tuple[str, ...]
    if "s_churn" in options and not given.get("s_churn"):
        names, reason = ("s_tmin", "s_tmax", "s_noise"), "s_churn is 0"
    elif "eta" in options and not eta:
        names, reason = ("s_noise", "noise"), "eta is 0"
    else:
        return None
    return next(((name, reason) for name in names if name in given), None)


def plain(value: Value) -> Value:
    """Python's own number for numpy's; a whole one as an integer."""
    return value if isinstance(value, str) else int(value) if not value % 1 else float(value)
