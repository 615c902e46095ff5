"""Reads AUTOMATIC1111's parameter text, as it, Forge, Civitai and this package write it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...errors import ArgumentError
from ...sampling.names import read_sampler, read_schedule
from ...sampling.samplers import SAMPLERS
from ...sampling.schedules import SCHEDULES
from ...text.editing import split_tags
from ...text.tags import LORAS, read_tag
from ..a1111 import OPTIONS
from ..parameters import Origin, Parameters
from .civitai import Resources, read_resources
from .fields import Fields, file_name, tidy
from .infotext import Infotext, pairs, split_infotext
from .webui_compat import number_of, read_compat
from .webui_hires import read_hires
from .webui_reasons import DEFAULT_REASON, NO_EFFECT, REASONS

_NEW_SCHEDULES = (1, 9)  # a version of AUTOMATIC1111
_HEX = re.compile(r"[0-9a-fA-F]{8,64}")
_TITLED = re.compile(r"(.*?)\s*\[([0-9a-fA-F]{8,64})\]")
_NO_FILE = {"none", "automatic", "baked vae", "baked in vae", "default", "default (model)"}
_CPP = "stable-diffusion.cpp"
_PADDING = 32  # AUTOMATIC1111's default around a mask
_EMPHASES = {"original": "original", "no norm": "no_norm", "ignore": "none"}


def read_infotext(text: str) -> Parameters:
    """The parameters in a text. Raises `ValueError` if it has none."""
    parts = split_infotext(text)
    fields = Fields(parts.fields)
    version = fields.take("Version") or ""
    resources = read_resources(fields)
    tool = _tool(version, fields, resources)
    fields.drop(NO_EFFECT if tool != "sdxl" else (*NO_EFFECT, "RNG"))
    model = _model(fields, resources)
    hires = read_hires(fields, parts.prompt) or {}
    request = _prompts(parts, fields, tool) | _numbers(fields) | _sampling(fields, tool, version) | hires
    sources = _sources(fields, request)
    loras = _loras(parts.prompt, fields, resources)
    if loras:
        request["loras"] = [{name: value for name, value in each.items() if name != "hash"} for each in loras]
    if embeddings := _embeddings(fields, resources):
        model["embeddings"] = embeddings
    if tool != "sdxl":
        compat = "comfyui" if tool == "ComfyUI" else read_compat(fields, request, tool, version)
        request |= {"compat": compat, "preset": "none"}
    fields.refuse_all(REASONS, DEFAULT_REASON)
    if parts.rest:
        fields.refuse("text behind the parameters", parts.rest, "no tool defines what stands there")
    record = {"version": version or tool, "model": model, "request": request}
    if loras:
        record["lora_hashes"] = {each["file"]: each["hash"] for each in loras if "hash" in each}
    return Parameters(record, Origin(tool, fields.unmapped, sources))


def _tool(version: str, fields: Fields, resources: Resources) -> str:
    """Which program wrote it."""
    other = fields.take("App")
    if other:
        return other
    if version.startswith("sdxl "):
        return "sdxl"
    if re.match(r"f\d|neo|classic|forge", version, re.IGNORECASE):
        return "Forge"
    if not version and resources.is_civitai:
        return "Civitai"
    if version.lower() == "comfyui":  # of nodes that save this text
        return "ComfyUI"
    if version.startswith(_CPP):
        return _CPP
    named = re.match(r"([A-Za-z][\w.]{2,})\s+v?\d", version)
    return named[1] if named else "AUTOMATIC1111"


def _prompts(parts: Infotext, fields: Fields, tool: str) -> dict[str, Any]:
    """The prompts without tags, and how they are read."""
    prompt, tags = split_tags(parts.prompt)
    for tag in tags:
        if tag.kind not in LORAS:
            value = ":".join((tag.name, *tag.values))
            fields.refuse(f"<{tag.kind}:{tag.name}>", value, "only LoRAs can be asked for in a prompt")
    request: dict[str, Any] = {"prompt": prompt.strip()}
    if parts.negative_prompt:
        request["negative_prompt"] = parts.negative_prompt
    emphasis = fields.take("Emphasis")
    if emphasis == "None":
        return request
    request["prompt_syntax"] = "comfyui" if tool == "ComfyUI" else "a1111"
    if emphasis is not None and emphasis.lower() not in _EMPHASES:
        fields.refuse("Emphasis", emphasis, "there is no such way to weight words")
    elif emphasis is not None and (ours := _EMPHASES[emphasis.lower()]) != "original":
        request["emphasis"] = ours
    return request


_SCALES = (
    *(("CFG scale", "guidance_scale"), ("CFG Scale", "guidance_scale")),
    *(("CFG Rescale phi", "guidance_rescale"), ("CFG rescale", "guidance_rescale")),
)


def _numbers(fields: Fields) -> dict[str, Any]:
    """The fields that are numbers here too."""
    found: dict[str, Any] = {"steps": fields.whole("Steps"), "seed": fields.whole("Seed")}
    for name, ours in _SCALES:
        if (value := fields.number(name)) is not None:
            found[ours] = tidy(value)
    found["width"], found["height"] = fields.size("Size") or (None, None)
    seed, strength = fields.whole("Variation seed"), fields.number("Variation seed strength")
    if strength:
        found |= {"variation_seed": seed, "variation_strength": tidy(strength)}
    return {name: value for name, value in found.items() if value is not None}


def _sampling(fields: Fields, tool: str, version: str) -> dict[str, Any]:
    """Sampler, schedule and their options, and the text encoders' layer."""
    request: dict[str, Any] = {}
    sampler, schedule = read_names(fields, "Sampler", "Schedule type", is_old=_has_old_names(tool, version))
    if sampler == "ddim" and tool != "sdxl":
        schedule = "leading"  # AUTOMATIC1111's DDIM has timesteps of its own, whatever schedule is chosen
    found: dict[str, Any] = {"sampler": sampler, "schedule": schedule}
    eta, eta_ddim = fields.number("Eta"), fields.number("Eta DDIM")
    eta = eta_ddim if sampler == "ddim" and tool != _CPP else eta
    if tool == _CPP and sampler not in ("ddim", "tcd"):  # it writes 0 for all of them
        eta = None
    found["eta"] = None if eta is None else tidy(eta)
    options: dict[str, Any] = {}
    for ours, name in OPTIONS.items():
        if name in fields.left and (value := fields.number(name)) is not None:
            known = {**(SAMPLERS[sampler].options if sampler else {}), **_options_of(schedule)}
            if ours in known:
                options[ours] = tidy(value)
            else:
                fields.refuse(name, value, f"{sampler} with {schedule} has no such option")
    found["sampler_options"] = options or None
    request |= {name: value for name, value in found.items() if value is not None}
    if (layer := fields.whole("Clip skip")) is not None and layer > 2:
        if tool == "AUTOMATIC1111":
            reason = "it has no effect on SDXL in AUTOMATIC1111, unless its option 'Clip skip SDXL' is on"
            fields.refuse("Clip skip", layer, f"{reason}: then give clip_skip={layer - 2}")
        else:
            request["clip_skip"] = layer - 2
    if switch := fields.number("Refiner switch at"):
        request["refine_at"] = tidy(switch)
    return request


def _has_old_names(tool: str, version: str) -> bool:
    """Whether a sampler's name without a schedule means the uniform one: before 1.9, and for Civitai."""
    number = number_of(version)
    return tool in ("Civitai", "ComfyUI") or (
        tool in ("AUTOMATIC1111", "Forge") and number is not None and number < _NEW_SCHEDULES
    )


def _options_of(schedule: str | None) -> Mapping[str, Any]:
    return {} if schedule is None else SCHEDULES[schedule].options


def read_names(
    fields: Fields, sampler_field: str, schedule_field: str, is_old: bool = False
) -> tuple[str | None, str | None]:
    """Our names of a sampler and a schedule; names that are unknown stay unmapped."""
    sampler = schedule = own = None
    if name := fields.take(sampler_field):
        sampler, own = fields.convert(sampler_field, name, read_sampler) or (None, None)
    kind = fields.take(schedule_field) or (fields.take("Scheduler") if schedule_field == "Schedule type" else None)
    if kind is None and sampler is not None and own is None:
        kind = "Uniform" if is_old else "Automatic"
    if own is not None and kind in (None, "Automatic"):
        return sampler, own
    if kind:
        schedule = fields.convert(schedule_field, kind, lambda name: read_schedule(name, sampler))
    return sampler, schedule


def _sources(fields: Fields, request: dict[str, Any]) -> dict[str, str | None]:
    """What an image to image was made from; its arguments are added to the `request`."""
    sources: dict[str, str | None] = {}
    strength = None if "hires" in request else fields.number("Denoising strength")
    if strength:  # AUTOMATIC1111's API wrote 0 for text to image
        request["strength"] = tidy(strength)
        sources["image"] = fields.take("Init image hash")
    padding = fields.whole("Masked area padding")
    if fields.take("Inpaint area") == "Only masked":
        request["mask_padding"] = _PADDING if padding is None else padding
    has_mask = "mask_padding" in request or any(
        name in fields.left for name in ("Mask blur", "Mask mode", "Masked content")
    )
    if has_mask:
        sources |= {"image": sources.get("image"), "mask": None}
    return sources


def _model(fields: Fields, resources: Resources) -> dict[str, Any]:
    """The files of the model, by field of `ModelRequest`, and their hashes."""
    names: dict[str, str | None] = {}
    hashes = {"model": fields.take("Model hash") or fields.take("Model Hash"), "vae": fields.take("VAE hash")}
    for name, field in (("model", "Model"), ("vae", "VAE"), ("refiner", "Refiner"), ("unet", "Unet")):
        title = fields.take(field) or ""
        match = _TITLED.fullmatch(title)
        names[name] = file_name(match[1] if match else title) or None
        hashes[name] = hashes.get(name) or (match[2] if match else None)
    modules = [name for name in fields.left if re.fullmatch(r"Module \d+", name)]
    for name in modules:
        module = fields.take(name)
        if names["vae"] is None and module and "vae" in module.lower():
            names["vae"] = module
        else:
            fields.refuse(name, module, "only a VAE can be given beside the model")
    names["model"] = names["model"] or resources.model
    found: dict[str, Any] = {
        name: value for name, value in names.items() if value and value.strip().lower() not in _NO_FILE
    }
    known = {name: hashes.get(name) or resources.hashes.get(name) for name in ("model", *found)}
    digits = {name: value.lower() for name, value in known.items() if value and _HEX.fullmatch(value)}
    return found | ({"sha256": digits} if digits else {})


def _loras(prompt: str, fields: Fields, resources: Resources) -> list[dict[str, Any]]:
    """The LoRAs of the prompt's tags, then those of Civitai's list, with the hashes that are known."""
    hashes = pairs(fields.left.pop("Lora hashes", None))
    weights = pairs(fields.left.pop("Lora weights", None))
    known = {name.lower(): value for name, value in {**resources.hashes_of("lora"), **hashes}.items()}
    found: list[dict[str, Any]] = []
    for tag in split_tags(prompt)[1]:
        if tag.kind in LORAS:
            label, values = f"<{tag.kind}:{tag.name}>", ":".join(tag.values)
            try:
                read = read_tag(tag)
            except ArgumentError as error:
                fields.refuse(label, values, str(error))
                continue
            for reason in read.ignored:
                fields.refuse(label, values, reason)
            found.append(_lora(read.name, read.weight, read.text_weight))
    if not found:
        found = [_lora(name, weight, weight) for name, weight in resources.loras]
    tagged = {each["file"] for each in found}
    for name, text in weights.items():
        if name not in tagged and (weight := Fields({name: text}).number(name)) is not None:
            found.append(_lora(name, tidy(weight), tidy(weight)))
    for each in found:
        if value := known.pop(each["file"].lower(), None):
            each["hash"] = value.lower()
    for name, value in known.items():
        fields.refuse(f"LoRA {name}", value, "the prompt has no tag of it, so its weight is not known")
    return found


def _lora(name: str, weight: float, text_weight: float) -> dict[str, Any]:
    own = {} if text_weight == weight else {"text_weight": text_weight}
    return {"file": name, "weight": weight, **own}


def _embeddings(fields: Fields, resources: Resources) -> list[dict[str, Any]]:
    """The embeddings whose words are in the prompts."""
    hashes = {**resources.hashes_of("embed"), **pairs(fields.left.pop("TI hashes", None))}
    found = {name: {"file": name, "word": name, "hash": hash.lower()} for name, hash in hashes.items() if name}
    return list(found.values())
