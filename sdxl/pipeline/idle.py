"""Arguments that are given and change nothing."""

from __future__ import annotations

import warnings
from dataclasses import fields

from ..errors import SDXLWarning
from ..sampling.samplers import SAMPLERS
from ..weights.info import ModelInfo
from .request import Request

_GUIDED = (
    "negative_prompt",
    "negative_prompt_2",
    "guidance_rescale",
    "guidance_interval",
    "negative_original_size",
    "negative_crop_top_left",
    "negative_target_size",
)
_AESTHETIC = ("aesthetic_score", "negative_aesthetic_score")
_SECOND = ("prompt_2", "negative_prompt_2")
_DEFAULTS = {each.name: each.default for each in fields(Request)}


def warn_of_idle_arguments(request: Request, info: ModelInfo, refiner: ModelInfo | None, sampler: str) -> None:
    """Warn of arguments that this model, or another argument, leaves without effect."""
    kinds = {each.config.kind for each in (info, refiner) if each is not None}
    reasons: dict[str, str] = {}
    if "refiner" not in kinds:
        reasons |= dict.fromkeys(_AESTHETIC, "no refiner is loaded, and it alone is conditioned on that")
    if kinds == {"refiner"}:
        reasons |= dict.fromkeys(_SECOND, "a refiner has one text encoder")
    if request.guidance_scale <= 1 and not SAMPLERS[sampler].with_pair:
        reasons |= dict.fromkeys(_GUIDED, f"guidance_scale {request.guidance_scale} turns guidance off")
    for name, reason in reasons.items():
        if getattr(request, name) not in (_DEFAULTS[name], ""):
            warnings.warn(f"{name} has no effect: {reason}", SDXLWarning, stacklevel=3)
