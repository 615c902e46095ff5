"""Which noise levels a request visits: the schedule by the conventions, and the part of it that runs."""

from __future__ import annotations

import math
from dataclasses import replace

from ..errors import ArgumentError
from ..models.schedule_config import ScheduleConfig
from ..sampling.sampler import Sampler
from ..sampling.samplers import SAMPLERS
from ..sampling.schedule import (
    LAST_ALPHA,
    NoiseTable,
    Schedule,
    make_schedule,
    noise_table,
    schedule_of_sigmas,
    schedule_of_timesteps,
)
from ..sampling.schedule_formulas import FORMULAS, float32_table, of_float32_alphas
from ..sampling.schedules import SCHEDULES
from ..sampling.settings import CUSTOM
from ..sampling.variants import sampler_of
from .conventions import AUTOMATIC, Conventions
from .request import Request

_LAST_ALPHAS = {"sigma_4096": LAST_ALPHA, "sigma_4519": 4.8973451890853435e-08}
_SPACINGS = ("leading", "trailing", "linspace")


def default_schedule(config: ScheduleConfig, sampler: str, conventions: Conventions) -> str:
    """The schedule of a request that names none."""
    if config.edm is not None:
        return config.schedule
    if conventions.schedule is None:
        own = SAMPLERS[sampler].diffusers if conventions.schedules == "diffusers" else None
        return (own and own.schedule) or config.schedule
    return SAMPLERS[sampler].automatic if conventions.schedule == AUTOMATIC else conventions.schedule


def steps_of(steps: int, strength: float | None, sampler: str, conventions: Conventions) -> tuple[int, int | None]:
    """How many steps the whole schedule has, and how many of them run, None for all. Raises `ArgumentError`."""
    if strength is None:
        return steps, None
    rule = conventions.strength_steps
    if rule == "all" and strength > 0.9999:
        return steps, None
    if rule in ("all", "exactly") and strength:
        whole, is_ddim = int(steps / min(strength, 0.999 if rule == "exactly" else 1)), sampler == "ddim"
        return whole, max(steps - 2, 1) if is_ddim and rule == "exactly" else steps
    left = _left(steps, strength, sampler, rule)
    if strength and not left:
        raise ArgumentError(
            f"strength {strength} of {steps} steps leaves none; raise one of them (strength 0 gives the image back)"
        )
    return steps, left


def _left(steps: int, strength: float, sampler: str, rule: str) -> int:
    if not strength:
        return 0
    if rule == "sigmas":  # Stability's
        return max(int(strength * (steps + 1)), 1) - 1
    if rule == "one_more":  # AUTOMATIC1111's
        left = int(steps * min(strength, 0.999))
        return left + 1 if sampler != "ddim" else max(left - 1, min(left, 1))
    return int(steps * strength)


def make_steps(
    request: Request, config: ScheduleConfig, name: str, sampler: str, whole: int, left: int | None
) -> tuple[Schedule, int]:
    """The schedule of `whole` steps, or over the request's own noise levels, and the index at which the last `left`
    steps begin. Raises `ArgumentError`.
    """
    conventions, record = request.conventions, sampler_of(sampler, request.conventions.samplers)
    discards = name != CUSTOM and sampler in conventions.discard_penultimate
    schedule = _schedule(request, config, name, sampler, whole + discards, record)
    if discards:
        schedule = replace(
            schedule, sigmas=(*schedule.sigmas[:-2], schedule.sigmas[-1]), timesteps=schedule.timesteps[:-1]
        )
    first = 0 if left is None else max(len(schedule.timesteps) - left, 0)
    scale = _start_scale(conventions, schedule, first, sampler, name if name in _SPACINGS else _spacing(config))
    return schedule if scale is None else replace(schedule, start_scale=scale), first


def _schedule(
    request: Request, config: ScheduleConfig, name: str, sampler: str, steps: int, record: Sampler
) -> Schedule:
    """All noise levels, and the timestep that the UNet is given at each."""
    rules = request.conventions
    rounding = "fractional" if rules.timesteps == "schedule" else rules.timesteps
    if rules.schedules == "a1111" and sampler == "lcm":
        rounding = "lcm"
    make_table = float32_table if rules.schedules == "diffusers" and config.edm is None else noise_table
    table = replace(make_table(config, _LAST_ALPHAS[rules.zero_snr]), rounding=rounding)
    if rules.alphas == "float32" and config.edm is None:
        table = of_float32_alphas(table)
    if request.sigmas is not None:
        schedule = schedule_of_sigmas(config, request.sigmas, sampler, table)
    elif request.timesteps is not None:
        schedule = schedule_of_timesteps(config, request.timesteps, sampler, table)
    else:
        schedule = _by_formula(request, config, name, sampler, steps, table) or _ours(
            request, config, name, sampler, steps, table
        )
    if request.sigmas is None and record.ends_at_zero and not SAMPLERS[sampler].ends_at_zero:
        schedule = replace(schedule, sigmas=(*schedule.sigmas[:-1], 0.0))
    if rules.end_scale == "one" and record.ends_at_zero:
        schedule = replace(schedule, scales_end=False)
    if rules.timesteps == "schedule" or request.timesteps is not None:
        return schedule
    return replace(schedule, timesteps=tuple(table.network_timestep(sigma) for sigma in schedule.sigmas[:-1]))


def _ours(request: Request, config: ScheduleConfig, name: str, sampler: str, steps: int, table: NoiseTable) -> Schedule:
    own = SCHEDULES[name].options if name in SCHEDULES else {}
    options = {each: value for each, value in (request.sampler_options or {}).items() if each in own}
    return make_schedule(config, name, steps, sampler, options, table)


def _by_formula(
    request: Request, config: ScheduleConfig, name: str, sampler: str, steps: int, table: NoiseTable
) -> Schedule | None:
    """The schedule by another tool's formula, where its name stands for another one there."""
    formula = FORMULAS.get(request.conventions.schedules)
    if formula is None or config.edm is not None:
        return None
    if not 1 <= steps <= len(table.sigmas):
        raise ArgumentError(f"steps is {steps}; with the {name} schedule it must be 1 to {len(table.sigmas)}")
    found = formula(table, name, steps, sampler, _spacing(config), request.sampler_options or {})
    if found is None:
        return None
    sigmas, timesteps = found
    if timesteps is None:
        timesteps = [table.network_timestep(sigma) for sigma in sigmas[:-1]]
    scale = SAMPLERS[sampler].start_scale(sigmas[0], name)
    return Schedule(tuple(map(float, sigmas)), tuple(map(float, timesteps)), scale, table)


def _spacing(config: ScheduleConfig) -> str:
    """The spacing of a model's own config."""
    return config.schedule if config.schedule in _SPACINGS else "leading"


def _start_scale(conventions: Conventions, schedule: Schedule, first: int, sampler: str, spacing: str) -> float | None:
    """The scale of the first noise where it is not the sampler's. `spacing` is that of the schedule, or of the model's
    own config under another one.
    """
    sigma, rule = schedule.sigmas[first], conventions.start_scale
    if rule == "sampler":
        return None
    if rule == "spacing":  # diffusers' other schedulers scale x by 1 / sqrt(1 + sigma^2), wherever the steps begin
        record = SAMPLERS[sampler]
        return record.start_scale(schedule.sigmas[0] if record.starts_at_sigma else sigma, spacing)
    highest = float(schedule.table.sigmas[-1])
    is_highest = sigma > highest or math.isclose(sigma, highest, rel_tol=1e-5)
    plain = (rule == "sigma" and sampler != "ddim") or (rule == "highest" and not is_highest)
    return sigma if plain else math.sqrt(1 + sigma**2)


def hand_off(request: Request, schedule: Schedule, refine_at: float | None, train_steps: int) -> int:
    """How many steps of the whole schedule belong to the base."""
    total = len(schedule.timesteps)
    if refine_at is None:
        return total
    if request.conventions.hand_off == "steps":
        return min(math.ceil(total * refine_at - 1e-9), total)
    if request.conventions.hand_off == "sigmas":
        return total - max(int((1 - refine_at) * (total + 1)) - 1, 0)
    cutoff = round(train_steps - refine_at * train_steps)
    if request.conventions.hand_off == "whole":
        return sum(schedule.table.nearest(sigma) >= cutoff for sigma in schedule.sigmas[:-1])
    return sum(t >= cutoff for t in schedule.timesteps)
