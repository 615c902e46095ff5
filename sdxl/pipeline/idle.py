"""Arguments that are given and change nothing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import fields

from ..errors import SDXLWarning
from ..sampling.guiders import APG, PAG
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


def warn_of_idle_arguments(request: Request, resolved: Request, info: ModelInfo, refiner: ModelInfo | None) -> None:
    """Warn of arguments that this model, or another argument, leaves without effect. `resolved` is the request with the
    defaults filled in.
    """
    kinds = {each.config.kind for each in (info, refiner) if each is not None}
    reasons: dict[str, str] = {}
    if "refiner" not in kinds:
        reasons |= dict.fromkeys(_AESTHETIC, "no refiner is loaded, and it alone is conditioned on that")
    if kinds == {"refiner"}:
        reasons |= dict.fromkeys(_SECOND, "a refiner has one text encoder")
    reasons |= _without_guidance(resolved, info)
    for name, reason in reasons.items():
        if getattr(request, name) not in (_DEFAULTS[name], "", 0):
            warnings.warn(f"{name} has no effect: {reason}", SDXLWarning, stacklevel=3)


def _without_guidance(request: Request, info: ModelInfo) -> dict[str, str]:
    """What has no effect where no step has a second pass."""
    scale, guider = request.guidance_scale, request.guider
    scales = scale if isinstance(scale, Sequence) else (scale or 0.0,)
    if info.config.unet.guidance_dim is not None:
        reason = "the UNet takes the guidance scale as an input, without a negative prompt"
    elif max(scales) <= 1:
        reason = f"guidance_scale {max(scales):g} turns guidance off"
    else:
        return {}
    names = [*_GUIDED, *(["guider"] if isinstance(guider, APG) else [])]
    acts = isinstance(guider, PAG) and guider.scale > 0
    return {name: reason for name in names if not (acts and name in ("guidance_rescale", "guidance_interval"))}
