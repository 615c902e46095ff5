"""Samplers and schedules under AUTOMATIC1111's names, and the options that each of them takes there."""

from __future__ import annotations

from typing import Any

from ...errors import ArgumentError
from ...sampling.names import AUTOMATIC, read_sampler, read_schedule
from ...sampling.samplers import SAMPLERS
from ..given import Given
from ..refusals import UnknownError

_CHURN = {"s_tmin": 0.0, "s_tmax": 0.0, "s_noise": 1.0}  # AUTOMATIC1111's defaults; its s_tmax 0 is infinity


def read_sampling(given: Given) -> dict[str, Any]:
    """The fields `sampler`, `schedule`, `eta` and `sampler_options`. Raises `UnknownError` with the texts that clients
    compare.

    Clients send eta, s_tmax and the like with every request, so each acts only where the sampler has it there.
    """
    sampler, schedule = read_names(given, "sampler_name", "scheduler", "sampler_index")
    if sampler is None:
        return {"schedule": schedule}
    return {"sampler": sampler, "schedule": schedule, "eta": _eta(given, sampler)} | _options(given, sampler)


def read_names(given: Given, sampler_field: str, schedule_field: str, older: str = "") -> tuple[str | None, str | None]:
    """Our sampler and our schedule, None where the model's own is meant: a schedule in the sampler's name ("DPM++ 2M
    Karras"), a given one, or the one that AUTOMATIC1111 takes for the sampler.
    """
    name = given.text(sampler_field) or given.text(older)
    scheduler = given.text(schedule_field).strip()
    try:
        sampler, own = (None, None) if name in ("", "Use same sampler") else read_sampler(name)
    except ArgumentError as error:
        raise UnknownError("Sampler not found", sampler_field) from error
    if scheduler.lower() not in ("", AUTOMATIC, "use same scheduler"):
        try:
            return sampler, read_schedule(scheduler, sampler)
        except ArgumentError as error:
            raise UnknownError("Scheduler not found", schedule_field) from error
    return sampler, own or (None if sampler is None else SAMPLERS[sampler].automatic)


def _eta(given: Given, sampler: str) -> float | None:
    """Eta for ancestral samplers, those of stochastic equations, and DDIM."""
    takes_it = sampler == "ddim" or SAMPLERS[sampler].options.get("eta") == 1.0
    return given.number("eta") if takes_it else None


def _options(given: Given, sampler: str) -> dict[str, Any]:
    values = {name: given.number(name, default) for name, default in _CHURN.items()}
    changed = {name: value for name, value in values.items() if value != _CHURN[name]}
    known, churn = SAMPLERS[sampler].options, given.number("s_churn", 0.0)
    if "s_churn" in known and churn:
        return {"sampler_options": {"s_churn": churn, **changed}}
    if "s_noise" in known and "s_churn" not in known and _eta(given, sampler) != 0 and "s_noise" in changed:
        return {"sampler_options": {"s_noise": changed["s_noise"]}}
    return {}
