"""The conventions of known tools by name, and what `Request.compat` may be. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import ArgumentError, brief
from .conventions import AUTOMATIC, Conventions

OURS = Conventions()

# diffusers 0.42.1
_DIFFUSERS = Conventions(
    long_prompt="truncate",
    prompt_2="first",
    clip_skip="positive",
    negative_sizes="pair",
    padded_sizes="work",
    schedules="diffusers",
    samplers="diffusers",
    start_scale="spacing",
    end_scale="one",
    generators="batch",
    sde_noise="fresh",
    control_image="stretched",
    posterior="shared",
    mask_strength=0.9999,
    grey="binary",
    inpaint_start="latents",
    mask_window="filled",
    paste=False,
)

# Stability's generative-models, its demo on a CPU
_SGM = Conventions(
    long_prompt="truncate",
    empty_negative="absent",
    padded_sizes="work",
    guidance_off="only_1",
    schedule="sgm",
    samplers="sgm",
    timesteps="quantized",
    start_scale="root",
    end_scale="one",
    generators="batch",
    image_size="floor_64",
    alpha="dropped",
    strength=0.75,
    mask_strength=0.75,
    strength_steps="sigmas",
    paste=False,
    hand_off="sigmas",
    pixels="cut",
)

# ComfyUI of 2026 on an NVIDIA card
_COMFYUI = Conventions(
    prompt_syntax="comfyui",
    no_negative="encode",
    padded_sizes="work",
    guidance_off="only_1",
    rescale="v",
    schedule="linspace",
    schedules="comfyui",
    samplers="comfyui",
    discard_penultimate=("dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"),
    timesteps="nearest",
    zero_snr="sigma_4519",
    start_scale="highest",
    end_scale="one",
    generators="batch",
    step_noise="card",
    tree_range="run",
    second_pass="restart",
    image_size="cut",
    alpha="dropped",
    posterior="mean",
    strength=1.0,
    mask_strength=1.0,
    strength_steps="all",
    mask_size="bilinear",
    grey="blend",
    inpaint_start="image",
    known="always",
    known_9=True,
    paste=False,
    hand_off="steps",
    pixels="cut",
)

# AUTOMATIC1111 1.10 with its default options
_A1111 = Conventions(
    prompt_syntax="a1111",
    no_negative="zeros",
    empty_negative="absent",
    last_weight="weight",
    prompt_changes="calls",
    clip_skip="first",
    padded_sizes="work",
    guidance_off="only_1",
    schedule=AUTOMATIC,
    schedules="a1111",
    samplers="a1111",
    discard_penultimate=("dpm_2", "dpm_2_ancestral", "dpmpp_3m_sde"),
    timesteps="fractional",
    alphas="float32",
    zero_snr="sigma_4519",
    start_scale="sigma",
    end_scale="one",
    noise="philox",
    tree_noise="philox",
    second_pass="restart",
    upscaler_input="bgr",
    posterior="mean",
    strength=0.75,
    mask_strength=0.75,
    strength_steps="one_more",
    mask_size="bicubic",
    grey="binary",
    inpaint_start="image",
    known="output",
    known_9=True,
    mask_window="filled",
    paste_grey="doubled",
    hand_off="whole",
    pixels="cut",
)

PROFILES: dict[str, Conventions] = {
    "diffusers": _DIFFUSERS,
    "sgm": _SGM,
    "comfyui": _COMFYUI,
    "a1111": _A1111,
}
"""The conventions of each tool."""

Compat = Conventions | str | Mapping[str, Any] | None
"""What `Request.compat` may be: conventions, the name of a profile, or as JSON has it a mapping of members, of which
"profile" names the one that the others differ from.
"""


def read_compat(value: Any) -> Conventions | str | None:
    """The name of a profile, or conventions, of what a caller gives: also NAME,MEMBER=VALUE,... Raises
    `ArgumentError`.
    """
    if value is None or isinstance(value, Conventions) or (isinstance(value, str) and value in PROFILES):
        return value
    if isinstance(value, str):
        name, *parts = value.split(",")
        pairs = dict(part.strip().partition("=")[::2] for part in parts)
        return _changed(name, {member: _read_part(text) for member, text in pairs.items()})
    if not isinstance(value, Mapping):
        raise ArgumentError(f"compat is {brief(value)}; expected one of {', '.join(PROFILES)}, or Conventions")
    return _changed(value.get("profile"), {member: each for member, each in value.items() if member != "profile"})


def _changed(name: Any, members: Mapping[str, Any]) -> Conventions:
    """A profile, or ours, with other members."""
    if name is not None and (not isinstance(name, str) or name not in PROFILES):
        raise ArgumentError(f"compat is {brief(name)}; expected one of {', '.join(PROFILES)}, or Conventions")
    known = {each.name for each in fields(Conventions)}
    if unknown := [member for member in members if member not in known]:
        raise ArgumentError(f"compat has {brief(unknown[0])}; expected a member of Conventions, such as step_noise")
    return replace(OURS if name is None else PROFILES[name], **members)


def _read_part(text: str) -> Any:
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    try:
        return words[text] if text in words else float(text) if "." in text else int(text)
    except ValueError:
        return text


def conventions_of(compat: Any) -> Conventions:
    """The conventions that `Request.compat` stands for."""
    own = read_compat(compat)
    return OURS if own is None else PROFILES[own] if isinstance(own, str) else own


def record_compat(compat: Any) -> str | dict[str, Any] | None:
    """`Request.compat` as JSON has it: the name of a profile, or the nearest one and what differs from it; None for
    ours.
    """
    own = conventions_of(compat)
    if own == OURS:
        return None
    names = [None, *PROFILES]
    differences = [_difference(own, OURS if name is None else PROFILES[name]) for name in names]
    name, members = min(zip(names, differences, strict=True), key=lambda each: len(each[1]))
    if name is None:
        return members
    return {"profile": name, **members} if members else name


@dataclass(frozen=True)
class Place:
    """Where an image stands in its batch: its `number`, the size of the batch, how many source images that has, and
    whether it repaints pixels of these.
    """

    number: int
    count: int
    sources: int
    repaints: bool


def for_one(rules: Conventions, place: Place, seeds: Sequence[int], is_one: bool) -> Conventions | None:
    """The conventions by which an image of a batch is generated alone, where its noise depends on the others: if one
    generator draws all (`is_one`), or it shares the posterior of its source image.
    """
    if place.count == 1:
        return None
    if is_one:
        return replace(rules, batch=(place.number, place.count, place.sources))
    each = place.count // place.sources
    if rules.posterior != "shared" or not place.repaints or not place.number % each:
        return None
    return replace(rules, posterior_seed=seeds[place.number // each * each])


def is_alone(rules: Conventions, repaints: bool) -> bool:
    """Whether an image shares its call with no others of one request: its noise is that of a place in another batch, or
    would be that of the first image with the same source.
    """
    return rules.batch is not None or (rules.posterior == "shared" and repaints)


def _difference(own: Conventions, other: Conventions) -> dict[str, Any]:
    values = {each.name: getattr(own, each.name) for each in fields(own)}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {name: plain[name] for name in values if values[name] != getattr(other, name)}
