"""The passes of a request: one, or with hires fix a second one, image to image from the enlarged result of the first.

Each pass is a plan of its own, so the second one knows what image to image knows: tasks, samplers, guiders, memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from ..errors import ArgumentError
from ..images.image import MOST_PIXELS, check_encoder
from ..images.upscalers import works_on_pixels
from ..models.config import AnyVAEConfig
from ..sampling.presets import Family
from ..sampling.samplers import SAMPLERS
from ..sampling.schedules import SCHEDULES
from ..weights.info import ModelInfo
from .hires import Hires, read_hires
from .idle import warn_of_idle
from .plan import Plan, make_plan
from .prompts import counted_steps
from .request import Request
from .tags import requested_loras, tagged_loras

_OF_REFINERS = ("refine_at", "aesthetic_score", "negative_aesthetic_score")
_UNREFINED: dict[str, Any] = {each.name: each.default for each in fields(Request) if each.name in _OF_REFINERS}


def make_passes(
    request: Request, info: ModelInfo, refiner: ModelInfo | None = None, families: Sequence[Family] = ()
) -> Plan:
    """The plan of a request, with that of its second pass if it asks for hires fix, in which alone the refiner takes
    part. Raises `ArgumentError`.
    """
    kinds = tuple(each.config.kind for each in (info, refiner) if each)
    if request.hires is None:
        plan = _plan(request, info, refiner, families)
        warn_of_idle([(plan, request)], kinds)
        return plan
    hires = read_hires(request.hires)
    _check_loras(request, hires)
    if works_on_pixels(hires.upscaler):
        check_encoder(info.config.vae, "the enlarged image of hires")
    unrefined = {} if refiner is None else _UNREFINED
    first = _plan(replace(request, hires=None, **unrefined), info, None, families)
    try:
        asked = _second_request(request, hires, first, info.config.vae)
        second = _plan(asked, info, refiner, families, counted_steps(first.request, first.steps))
    except ArgumentError as error:
        raise ArgumentError(f"in the second pass of hires {error}") from error
    warn_of_idle([(first, request), (second, asked)], kinds)
    refined = {name: getattr(second.request, name) for name in _OF_REFINERS}
    return replace(first, request=replace(first.request, hires=hires, **refined), second=second)


def _plan(
    request: Request, info: ModelInfo, refiner: ModelInfo | None, families: Sequence[Family], before: int = 0
) -> Plan:
    """The plan of one pass, always from this line: Python shows a warning of both passes once."""
    plan = make_plan(request, info, refiner, families, before)
    if plan.canvases:
        check_encoder(info.config.vae, "an image")
    return plan


def _check_loras(request: Request, hires: Hires) -> None:
    """The weights are changed before the first step, for both passes."""
    asked = requested_loras({"prompt_syntax": request.prompt_syntax, "prompt": hires.prompt})
    if asked and asked != tagged_loras(request):
        raise ArgumentError(
            "prompt of hires asks for other LoRAs than the prompt, and both passes have the same; leave its tags out"
        )


def _second_request(request: Request, hires: Hires, first: Plan, vae: AnyVAEConfig) -> Request:
    """The request of the second pass: image to image from latents that stand for those of the first."""
    height, width = hires.enlarged(first.size, vae.factor)[1]
    if height * width > MOST_PIXELS:
        raise ArgumentError(f"the image is {width} x {height}; expected at most {MOST_PIXELS} pixels, give less")
    shape = (1, vae.latent_channels, height // vae.factor, width // vae.factor)
    own: dict[str, Any] = {
        "image": torch.zeros(shape, dtype=torch.float32),
        "strength": hires.strength,
        "steps": hires.steps or first.request.steps,
        "seed": first.request.seed,
        "compat": _compat(request),
        "variation_seed": list(first.variation_seeds) or None,
        **dict.fromkeys(("hires", "width", "height", "latents", "sigmas", "timesteps")),
    }
    return replace(request, **own, **_texts(request, hires), **_sampling(request, hires, first))


def _compat(request: Request) -> Any:
    """The conventions of the second pass: all of the steps that AUTOMATIC1111 is asked for run there."""
    rules = request.conventions
    return replace(rules, strength_steps="exactly") if rules.strength_steps == "one_more" else request.compat


def _texts(request: Request, hires: Hires) -> dict[str, Any]:
    """The prompts that are given for the second pass; each is that of both text encoders."""
    own: dict[str, Any] = {}
    if hires.prompt is not None:
        several = not isinstance(request.prompt, str)
        own |= {"prompt": [hires.prompt] * len(request.prompts) if several else hires.prompt, "prompt_2": None}
    if hires.negative_prompt is not None:
        own |= {"negative_prompt": hires.negative_prompt, "negative_prompt_2": None}
    return own


def _sampling(request: Request, hires: Hires, first: Plan) -> dict[str, Any]:
    """Sampler and schedule of the second pass, and those of the first one's options that they have. eta belongs to the
    first sampler: another one has its own.
    """
    sampler, schedule = hires.sampler or first.request.sampler, hires.schedule or first.request.schedule
    assert sampler is not None
    known = {*SAMPLERS[sampler].options, *(SCHEDULES[schedule].options if schedule else ())}
    options = {name: value for name, value in (request.sampler_options or {}).items() if name in known}
    eta = request.eta if sampler == first.request.sampler else None
    return {"sampler": sampler, "schedule": schedule, "sampler_options": options or None, "eta": eta}
