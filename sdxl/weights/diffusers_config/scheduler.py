"""A scheduler_config.json, read and written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...errors import ConfigError, brief
from ...models.schedule_config import EDM, ScheduleConfig
from ...sampling.sampler import Scheduler
from ...sampling.samplers import SAMPLERS
from ...sampling.schedules import SCHEDULES
from .values import Json, is_whole, make, number, require, unsupported, whole, word

# of a scheduler: what the network predicts, at which noise levels
_NOISE_FIXED: dict[str, tuple[object, object]] = {
    "timestep_type": ("discrete", "discrete"),
    "trained_betas": (None, None),
    "use_flow_sigmas": (False, False),
}
# of a scheduler: the timesteps and noise levels of the steps; what else a sampler fixes is its own way of taking them
_SCHEDULE_FIXED: dict[str, tuple[object, object]] = {
    "final_sigmas_type": ("zero", "zero"),
    "interpolation_type": ("linear", "linear"),
    "lambda_min_clipped": (-math.inf, -math.inf),
    "sigma_max": (None, None),
    "sigma_min": (None, None),
    "use_beta_sigmas": (False, False),
    "use_lu_lambdas": (False, False),
}
_EDM = {"EDMEulerScheduler": "euler", "EDMDPMSolverMultistepScheduler": "dpmpp_2m"}
_EDM_FIXED: dict[str, tuple[object, object]] = {
    "algorithm_type": ("dpmsolver++", "dpmsolver++"),
    "final_sigmas_type": ("zero", "zero"),
    "rho": (7.0, 7.0),
    "solver_order": (2, 2),
    "solver_type": ("midpoint", "midpoint"),
    "thresholding": (False, False),
}
_OTHER_NOISE = ("FlowMatch", "CosineDPMSolver")  # how the names of schedulers of other models begin
_LEADING = ("DDIM", "DDPM", "LCM", "PNDM", "TCD")  # whose classes have another spacing by default
_SCHEDULER_DEFAULTS: dict[str, object] = {"beta_start": 0.0001, "beta_end": 0.02, "timestep_spacing": "linspace"}


def read_scheduler(data: Json, where: str = "scheduler/scheduler_config.json") -> ScheduleConfig:
    """The noise schedule from a diffusers scheduler's JSON. A class or a field of a sampler or schedule that is not
    supported is a note of the result; raises `ConfigError` for noise that is not SDXL's.
    """
    name = word(data, "_class_name", "", where)
    if name.startswith(_OTHER_NOISE):
        raise ConfigError(f"{where}: {name} belongs to a model whose noise differs from SDXL's; give an SDXL model")
    if name in _EDM:
        return _read_edm(data, name, where)
    sampler, scheduler = _nearest(data, name)
    defaults = _SCHEDULER_DEFAULTS | ({"timestep_spacing": "leading"} if name.startswith(_LEADING) else {})
    data = defaults | dict(scheduler.defaults if scheduler else {}) | dict(data)
    require(data, _NOISE_FIXED, where)
    schedule = (scheduler and scheduler.schedule) or _schedule(data)
    offset = data.get("steps_offset", 0)
    if not is_whole(offset, 0):
        raise ConfigError(f"{where}: steps_offset is {brief(offset)}; it must be a whole number of at least 0")
    return make(
        ScheduleConfig,
        where,
        sampler=sampler,
        schedule=schedule or "leading",
        prediction=word(data, "prediction_type", "epsilon", where),
        train_steps=whole(data, "num_train_timesteps", 1000, where),
        beta_start=number(data, "beta_start", 0.0, where),
        beta_end=number(data, "beta_end", 0.0, where),
        beta_schedule=word(data, "beta_schedule", "linear", where),
        steps_offset=offset,
        zero_terminal_snr=bool(data.get("rescale_betas_zero_snr", False)),
        final_alpha_one=not SAMPLERS[sampler].ends_at_zero and bool(data.get("set_alpha_to_one")),
        sampler_note=_sampler_note(data, name, scheduler, sampler, where),
        schedule_note=_schedule_note(data, schedule, where),
    )


def _nearest(data: Json, name: str) -> tuple[str, Scheduler | None]:
    """The sampler for a class of diffusers from which its config differs least; without a class that we know, euler."""
    named = [(sampler, record.diffusers) for sampler, record in SAMPLERS.items() if record.diffusers]
    fitting = [(sampler, scheduler) for sampler, scheduler in named if scheduler.name == name]
    if not fitting:
        other = next((sampler for sampler, record in SAMPLERS.items() if name in record.names), None)
        return ("euler", None) if other is None else (other, SAMPLERS[other].diffusers)
    return min(fitting, key=lambda each: len(_own(dict(each[1].defaults) | dict(data), each[1])))


def _own(data: Json, scheduler: Scheduler) -> list[str]:
    """The fields by which diffusers' scheduler is not our sampler."""
    fixed = {field: (value, value) for field, value in scheduler.fixed.items()}
    own = {field: pair for field, pair in fixed.items() if field not in _NOISE_FIXED | _SCHEDULE_FIXED}
    return list(unsupported(data, own))


def _read_edm(data: Json, name: str, where: str) -> ScheduleConfig:
    """The noise levels of EDM, whose schedules are karras and exponential. What diffusers calls epsilon there is F."""
    data = {key: value for key, value in data.items() if value is not None}
    prediction = word(data, "prediction_type", "epsilon", where)
    spacing = word(data, "sigma_schedule", "karras", where)
    note = _note(data, list(unsupported(data, _EDM_FIXED)), where, f"the default sampler is {_EDM[name]}")
    return make(
        ScheduleConfig,
        where,
        sampler=_EDM[name],
        schedule="exponential" if spacing == "exponential" else "karras",
        prediction="edm" if prediction == "epsilon" else prediction,
        train_steps=whole(data, "num_train_timesteps", 1000, where),
        edm=make(
            EDM,
            where,
            sigma_min=number(data, "sigma_min", 0.002, where),
            sigma_max=number(data, "sigma_max", 80.0, where),
            sigma_data=number(data, "sigma_data", 0.5, where),
        ),
        sampler_note=note,
    )


def _sampler_note(data: Json, name: str, scheduler: Scheduler | None, sampler: str, where: str) -> str:
    """The sentence about fields by which diffusers' scheduler is not our sampler; empty if there are none."""
    advice = f"the default sampler is {sampler}, choose another with sampler="
    if scheduler is None:
        return f"{where}: the scheduler {name!r} is unknown; {advice}"
    return _note(data, _own(data, scheduler), where, advice)


def _schedule_note(data: Json, schedule: str | None, where: str) -> str:
    """The sentence about fields by which the steps would lie at other noise levels; empty if there are none."""
    fields = [*(["timestep_spacing"] if schedule is None else []), *unsupported(data, _SCHEDULE_FIXED)]
    advice = f"the default schedule is {schedule or 'leading'}, choose another with schedule="
    return _note(data, fields, where, advice)


def _note(data: Json, fields: Sequence[str], where: str, advice: str) -> str:
    if not fields:
        return ""
    values = " and ".join(f"{field} {brief(data.get(field))}" for field in fields)
    return f"{where}: {values} {'is' if len(fields) == 1 else 'are'} not supported; {advice}"


def _schedule(data: Json) -> str | None:
    """The schedule of a scheduler's config: from its flags, else from its timestep_spacing; None if that is unknown."""
    entries = {(key, value): name for name, each in SCHEDULES.items() for key, value in each.diffusers.items()}
    spacings = {value: name for (key, value), name in entries.items() if key == "timestep_spacing"}
    flags = [name for (key, value), name in entries.items() if value is True and data.get(key)]
    spacing = data.get("timestep_spacing")
    return flags[-1] if flags else spacings.get(spacing) if isinstance(spacing, str) else None


def write_scheduler(config: ScheduleConfig) -> dict[str, Any]:
    """The JSON that `read_scheduler` and diffusers read."""
    if config.edm is not None:
        return _write_edm(config, config.edm)
    scheduler = SAMPLERS[config.sampler].diffusers or SAMPLERS["euler"].diffusers
    assert scheduler is not None
    flags = {key: False for each in SCHEDULES.values() for key, value in each.diffusers.items() if value is True}
    return {
        "_class_name": scheduler.name,
        "beta_end": config.beta_end,
        "beta_schedule": config.beta_schedule,
        "beta_start": config.beta_start,
        "clip_sample": False,
        "num_train_timesteps": config.train_steps,
        "prediction_type": config.prediction,
        "rescale_betas_zero_snr": config.zero_terminal_snr,
        "set_alpha_to_one": config.final_alpha_one,
        "steps_offset": config.steps_offset,
        "timestep_spacing": "leading",
        **{name: value for name, value in scheduler.fixed.items() if scheduler.defaults.get(name, value) != value},
        **flags,
        **SCHEDULES[config.schedule].diffusers,
    }


def _write_edm(config: ScheduleConfig, edm: EDM) -> dict[str, Any]:
    names = {sampler: name for name, sampler in _EDM.items()}
    return {
        "_class_name": names.get(config.sampler, "EDMEulerScheduler"),
        "num_train_timesteps": config.train_steps,
        "prediction_type": "epsilon" if config.prediction == "edm" else config.prediction,
        "rho": 7.0,
        "sigma_data": edm.sigma_data,
        "sigma_max": edm.sigma_max,
        "sigma_min": edm.sigma_min,
        "sigma_schedule": "exponential" if config.schedule == "exponential" else "karras",
    }
