"""Warnings about arguments that are given and change nothing, such as a negative prompt without guidance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from ..errors import warn
from ..sampling.guiders import APG, PAG
from .request import Request

if TYPE_CHECKING:
    from .plan import Plan

_SIZES_OF_NEGATIVE = ("negative_original_size", "negative_crop_top_left", "negative_target_size")
_NEGATIVE = (
    *("negative_prompt", "negative_prompt_2", *_SIZES_OF_NEGATIVE),
    *("negative_aesthetic_score", "guidance_rescale"),
)
_SIZES = ("original_size", "crop_top_left", "target_size")
_STEPS = (
    *(*_NEGATIVE, *_SIZES),
    *("guidance_interval", "guider", "control", "reference", "prompt_2", "emphasis", "clip_skip", "eta", "latents"),
    *("variation_seed", "variation_strength", "aesthetic_score"),
)
_SCORES = ("aesthetic_score", "negative_aesthetic_score")
_DEFAULTS = {each.name: each.default for each in fields(Request)}


def warn_of_idle(passes: Sequence[tuple[Plan, Request]], kinds: tuple[str, ...]) -> None:
    """Warn of the arguments that have no effect on the images: those that change nothing in any pass. Each pass has its
    plan and the request as it was given; `kinds` are those of the models that are loaded.
    """
    reasons = [list(_reasons(plan, kinds)) for plan, _ in passes]
    idle = [{name for names, _ in each for name in names} for each in reasons]
    for names, reason in reasons[-1]:
        unused = [name for name in names if all(name in each for each in idle) and _is_given(name, passes)]
        if unused:
            warn(f"{' and '.join(unused)} {'have' if len(unused) > 1 else 'has'} no effect: {reason}")
    used = {number for plan, _ in passes for number, _ in plan.expert_sigmas()}
    if len(kinds) > len(used) > 0:
        idle_model = "refiner" if 0 in used else "model"
        warn(f"the {idle_model} has no effect: no step is left for it; change refine_at or strength, or leave it out")


def warn_of_idle_images(passes: Sequence[Plan]) -> None:
    """Warn of the controls and references that change nothing in any pass. A refiner sees none of them."""
    own_steps = [range(len(dict(plan.expert_sigmas()).get(0, (0.0,))) - 1) for plan in passes]
    steering = [(*plan.controls, *plan.references) for plan in passes]
    for each in zip(*steering, strict=True):
        reasons = [active.idle(steps) for active, steps in zip(each, own_steps, strict=True)]
        if reasons[-1] is not None and None not in reasons and any(plan.steps for plan in passes):
            warn(f"{each[0].name} has no effect: {reasons[-1]}")


def _is_given(name: str, passes: Sequence[tuple[Plan, Request]]) -> bool:
    return any(_says_something(getattr(given, name), _DEFAULTS[name]) for _, given in passes)


def _says_something(value: object, default: object) -> bool:
    return value not in (default, "") and not (isinstance(value, (int, float)) and value == 0)


def _reasons(plan: Plan, kinds: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Arguments that change nothing in a plan, and why."""
    request, running = plan.request, {kinds[number] for number, _ in plan.expert_sigmas()}
    if not running:
        yield _STEPS, "strength is 0, so no step runs; raise strength"
        return
    if not request.varies:
        yield ("variation_seed",), "variation_strength is 0; give more, up to 1"
    elif request.latents is not None:
        yield ("variation_strength",), "the first noise is latents; give seed in place of them"
    perturbs = isinstance(request.guider, PAG) and request.guider.scale > 0
    acting = ("guidance_rescale", "guidance_interval") if perturbs else ()  # on PAG too
    if plan.embedded_scales:
        why = "the UNet takes the guidance scale as an input, without a negative prompt"
        yield _without(acting, (*_NEGATIVE, "guidance_interval", *_apg(request))), why
    elif plan.branches.negatives.isdisjoint(plan.guider.names):
        why = f"guidance_scale {request.guidance_scale} turns guidance off; give more than 1"
        yield _without(acting, (*_NEGATIVE, "guidance_interval", *_apg(request))), why
    elif not any(plan.branches.negatives.intersection(plan.guider.branches(sigma)) for sigma in plan.sigmas[:-1]):
        yield (*_NEGATIVE, "guidance_scale", "guider"), "no sigma of the steps lies in guidance_interval; enlarge it"
    if "refiner" not in running:
        why = "no step is left for the refiner" if "refiner" in kinds else "no refiner is loaded"
        yield _SCORES, f"{why}, and it alone is conditioned on that"
    if running == {"refiner"}:
        yield ("prompt_2", "negative_prompt_2"), "a refiner has one text encoder; give prompt and negative_prompt"
        yield ("target_size", "negative_target_size"), "a refiner is conditioned on aesthetic_score in place of it"
    if request.prompt_syntax == "plain":
        yield ("emphasis",), "prompt_syntax plain has no weights; give another syntax"
    yield from _unused(request)
    if plan.sources.image_latents is not None:
        yield ("feather",), "the image is latents, into which nothing is pasted; give an image"


def _unused(request: Request) -> Iterator[tuple[tuple[str, ...], str]]:
    """Arguments that the conventions of another tool do not use."""
    rules, sizes = request.conventions, (request.negative_original_size, request.negative_target_size)
    if rules.prompt_2 == "first" and request.negative_prompt is None:
        yield ("negative_prompt_2",), "by these conventions (compat) it needs a negative_prompt; give one"
    if rules.negative_sizes == "pair" and request.image is None and None in sizes:
        yield _SIZES_OF_NEGATIVE, "by these conventions (compat) original and target are needed; give both"
    if rules.negative_sizes == "pair" and request.image is not None:
        yield ("negative_crop_top_left",), "by these conventions (compat) it has none with an image; leave it out"
    if not rules.paste and request.mask_padding is None:
        yield ("feather",), "by these conventions (compat) nothing is pasted back; leave it out"


def _apg(request: Request) -> tuple[str, ...]:
    """The guider, if it needs a negative branch."""
    return ("guider",) if isinstance(request.guider, APG) else ()


def _without(some: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in some)
