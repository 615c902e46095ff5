"""What of a recorded request no longer holds beside the arguments that are given over it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..sampling.names import read_sampler, read_schedule
from ..sampling.samplers import SAMPLERS
from ..sampling.schedules import SCHEDULES
from .argument_groups import LEVELS

_SPACED = ("steps", "schedule", "strength")  # which say where the steps lie, as a list of noise levels does


def outdated(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded arguments that others of the `given` ones replace, with their new values. A record states each
    default, so they may never have been chosen: steps and schedule beside a list of noise levels, or a list beside
    these; eta and the options of another sampler; hires fix beside an image. Raises `ArgumentError`.
    """
    given = {name: value for name, value in given.items() if value is not None}
    sampler, schedule = _names(recorded, given)
    lost = {"hires"} if "image" in given else set[str]()
    if sampler != recorded.get("sampler"):
        lost |= {"eta"}
    spacing = schedule or recorded.get("schedule")
    if any(name in given for name in LEVELS):
        lost, spacing = lost | {*LEVELS, *_SPACED}, None
    elif schedule is not None or any(name in given for name in _SPACED):
        lost |= {*LEVELS}
    if schedule is not None:
        lost |= {"schedule"}
    new = dict.fromkeys(lost & {*recorded}) | _options(recorded, sampler, spacing)
    return {name: value for name, value in new.items() if name not in given}


def _names(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Any, str | None]:
    """The sampler that acts, and the schedule that is given, perhaps in the name of the sampler."""
    sampler, own = recorded.get("sampler"), None
    if isinstance(named := given.get("sampler"), str):
        sampler, own = read_sampler(named)
    schedule = given.get("schedule")
    return sampler, read_schedule(schedule, sampler) if isinstance(schedule, str) else own


def _options(recorded: Mapping[str, Any], sampler: Any, schedule: Any) -> dict[str, Any]:
    """The recorded options without those of the recorded sampler and schedule that these do not have."""
    options = recorded.get("sampler_options")
    if not isinstance(options, Mapping):
        return {}
    gone = _known(recorded.get("sampler"), recorded.get("schedule")) - _known(sampler, schedule)
    left = {name: value for name, value in options.items() if name not in gone}
    return {} if left == options else {"sampler_options": left or None}


def _known(sampler: Any, schedule: Any) -> set[str]:
    """The options of a sampler and a schedule."""
    tables = ((SAMPLERS, sampler), (SCHEDULES, schedule))
    return {name for table, key in tables if isinstance(key, str) and key in table for name in table[key].options}
