"""What a request leaves open, filled in: by a preset, else by the defaults of all models."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import warn
from ..models.schedule_config import ScheduleConfig
from ..sampling.presets import DEFAULTS, NO_PRESET, PRESETS, Family, Preset
from ..weights.info import ModelInfo
from .request import Request

_LOG = logging.getLogger("sdxl.preset")


def with_preset(request: Request, info: ModelInfo, families: Sequence[Family] = ()) -> Request:
    """The request with the preset's settings, and then the general defaults, where it says nothing. The preset is the
    one that it names, else that of the first of `families`, those of LoRAs, else the model's. Warns of settings that
    the preset's models make noise with.
    """
    family = _family(request, info, families)
    preset = Preset("SDXL") if family is None else PRESETS[family.preset]
    open_fields = _open_fields(request, preset)
    resolved = replace(request, **open_fields | _size(request, info, preset))
    if family is None:
        return resolved
    taken = {name: value for name, value in open_fields.items() if name in preset.settings}
    if preset.prediction is not None:
        taken["prediction"] = preset.prediction
    settings = ", ".join(f"{name} {value}" for name, value in taken.items())
    _LOG.info("preset %s: %s", family, settings or "all settings are given")
    for fault in preset.faults(resolved):
        warn(fault)
    return replace(resolved, preset=family.preset)


def _open_fields(request: Request, preset: Preset) -> dict[str, Any]:
    """The settings of a preset that the request leaves open: none that contradict what it says."""
    settings = {**DEFAULTS, **preset.settings}
    if request.levels is not None:  # they say where all steps lie
        settings["steps"] = len(request.levels) - (request.sigmas is not None)
    beside = (request.schedule, request.strength, request.levels)  # a list of timesteps stands alone
    if beside != (None,) * 3 or request.steps not in (None, settings["steps"]):
        settings.pop("timesteps", None)
    if request.levels is not None:
        settings.pop("schedule", None)
    if request.sampler not in (None, settings.get("sampler")):
        settings.pop("eta", None)
    return {name: value for name, value in settings.items() if getattr(request, name) is None}


def _family(request: Request, info: ModelInfo, families: Sequence[Family]) -> Family | None:
    if request.preset == NO_PRESET:
        return None
    if request.preset is not None:
        return Family(request.preset, "as asked for")
    return next(iter(families), info.family)


def _size(request: Request, info: ModelInfo, preset: Preset) -> dict[str, Any]:
    """The native size of a family whose files may not state it, where nothing else sets the size."""
    stated = request.width, request.height, request.image, request.latents
    if preset.native_size is None or max(info.config.native_size) <= preset.native_size:
        return {}
    return dict.fromkeys(("width", "height"), preset.native_size) if stated == (None,) * 4 else {}


def noise_of(request: Request, info: ModelInfo) -> ScheduleConfig:
    """The noise of the model, with the prediction type of the request's preset."""
    preset = PRESETS.get(request.preset or NO_PRESET)
    return info.schedule if preset is None else preset.noise(info.schedule)
