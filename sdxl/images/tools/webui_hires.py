"""The fields of AUTOMATIC1111's second pass at a larger size ("hires fix")."""

from __future__ import annotations

from typing import Any

from ...sampling.names import read_sampler, read_schedule
from ...text.editing import split_tags
from ..upscalers import read_upscaler
from .fields import Fields, tidy

_FIELDS = ("Hires upscale", "Hires resize", "Hires upscaler")
_SAME = {"use same sampler", "use same scheduler", "use same checkpoint", "use same choices"}
_NONE = "none"  # no network: AUTOMATIC1111 resizes with Lanczos
_NEAREST_ONE = "lanczos"
# AUTOMATIC1111's own networks that are not of ESRGAN's architecture
_OTHERS = ("DAT x", "HAT", "LDSR", "R-ESRGAN AnimeVideo", "R-ESRGAN General", "ScuNET", "SwinIR")


def read_hires(fields: Fields, prompt: str) -> dict[str, Any] | None:
    """The argument `hires` as JSON has it, if the text has a second pass. `prompt` is that of the first."""
    if not any(name in fields.left for name in _FIELDS):
        return None
    hires: dict[str, Any] = {}
    size, scale = fields.size("Hires resize"), fields.number("Hires upscale")
    if size is not None and any(size):
        hires["size"] = _whole_size(fields, size)
    elif scale is not None:
        hires["scale"] = tidy(scale)
    strength, steps = fields.number("Denoising strength"), fields.whole("Hires steps")
    if strength is not None:
        hires["strength"] = tidy(strength)
    if steps:
        hires["steps"] = steps
    if (name := fields.take("Hires upscaler")) and name.strip():
        hires["upscaler"] = _upscaler(fields, name)
    if text := fields.take("Hires prompt"):
        hires["prompt"], tags = split_tags(text)
        if tags != split_tags(prompt)[1]:
            fields.refuse("Hires prompt", text, "both passes have the LoRAs of the prompt")
    if text := fields.take("Hires negative prompt"):
        hires["negative_prompt"] = text
    hires |= _names(fields)
    for field in ("Hires checkpoint", "Hires CFG Scale"):
        if (value := fields.take(field)) and value.lower() not in _SAME:
            fields.refuse(field, value, "both passes have the same one")
    return {"hires": hires}


def _upscaler(fields: Fields, name: str) -> str:
    if name.startswith(_OTHERS):
        fields.refuse("Hires upscaler", name, "networks of this architecture are not read; lanczos takes its place")
        return _NEAREST_ONE
    return _NEAREST_ONE if name.lower() == _NONE else read_upscaler(name)


def _whole_size(fields: Fields, size: tuple[int, int]) -> list[int]:
    """(height, width). A side of 0 follows from the other one."""
    width, height = size
    own = str(fields.left.get("Size", "")).lower().partition("x")
    if not (width and height) and own[0].isdecimal() and own[2].isdecimal() and int(own[0]) and int(own[2]):
        first = int(own[0]), int(own[2])
        width, height = width or height * first[0] // first[1], height or width * first[1] // first[0]
    return [height, width]


def _names(fields: Fields) -> dict[str, str]:
    """The sampler and the schedule of the second pass, where they are others."""
    found: dict[str, str] = {}
    sampler, own = fields.take("Hires sampler"), None
    is_other = sampler is not None and sampler.lower() not in _SAME
    if is_other and (names := fields.convert("Hires sampler", sampler, read_sampler)):
        found["sampler"], own = names
    schedule = fields.take("Hires schedule type") or own
    if schedule and schedule.lower() not in _SAME:
        first = found.get("sampler")
        name = fields.convert("Hires schedule type", schedule, lambda name: read_schedule(name, first) or name)
        found |= {} if name is None else {"schedule": name}
    return found
