"""Hires fix and variations in AUTOMATIC1111's parameter text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..sampling.samplers import SAMPLERS
from ..sampling.schedules import SCHEDULES
from .upscalers import a1111_name


def first_size(request: Mapping[str, Any]) -> str | None:
    """The size of the first pass of a recorded request, which is the Size there; None without hires fix."""
    return f"{request['width']}x{request['height']}" if request.get("hires") else None


def hires_facts(request: Mapping[str, Any]) -> dict[str, Any]:
    """What there is of a recorded request's hires fix, with what differs from the first pass."""
    hires = request.get("hires")
    if not hires:
        return {}
    sampler, schedule = hires.get("sampler"), hires.get("schedule")
    size = hires.get("size")
    facts = {
        "Denoising strength": f"{hires['strength']:g}",
        "Hires upscale": f"{hires['scale']:g}" if size is None else None,
        "Hires resize": None if size is None else f"{size[1]}x{size[0]}",
        "Hires steps": hires.get("steps"),
        "Hires upscaler": a1111_name(hires["upscaler"]),
        "Hires sampler": SAMPLERS[sampler].a1111 or sampler if sampler else None,
        "Hires schedule type": SCHEDULES[schedule].a1111 or schedule if schedule else None,
        "Hires prompt": hires.get("prompt"),
        "Hires negative prompt": hires.get("negative_prompt"),
    }
    return {name: value for name, value in facts.items() if value is not None}


def variation_facts(request: Mapping[str, Any]) -> dict[str, Any]:
    """The other seed of a recorded request and how far its noise goes there."""
    if not request.get("variation_strength"):
        return {}
    return {
        "Variation seed": request["variation_seed"],
        "Variation seed strength": request["variation_strength"],
    }
