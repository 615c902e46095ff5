"""The fields of OpenAI's requests, as those of `sdxl.Request`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import ArgumentError, brief
from ..given import Given
from ..problems import refuse
from ..refusals import UnknownError
from ..service import Service
from ..work import Work

ORIGIN = "openai"
_MOST_IMAGES, _MOST_PARTIAL = 10, 3
_STEPS = {"low": 15, "medium": 25, "high": 40, "xhigh": 60, "max": 100}  # other words of quality choose none
_FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_OWN = ("negative_prompt", "sampler", "schedule")


@dataclass(frozen=True)
class Asked:
    """A request that was read. `format` is PIL's name, `compression` 0 to 100 or None; `kind` is generation or edit.
    With `as_url` an image comes as a data URL.
    """

    work: Work
    kind: str
    format: str
    compression: int | None
    as_url: bool
    streams: bool
    partial: int
    quality: str
    background: str


def read_request(service: Service, given: Given, kind: str, sources: Mapping[str, Any]) -> Asked:
    """A body of images/generations or images/edits; `sources` are the fields of its images. Raises `ArgumentError`."""
    prompt = given.text("prompt")
    if not prompt:
        raise ArgumentError("prompt is missing; give a text")
    count, partial = given.whole("n", 1), given.whole("partial_images", 0)
    for name, value, least, most in (("n", count, 1, _MOST_IMAGES), ("partial_images", partial, 0, _MOST_PARTIAL)):
        if not least <= value <= most:
            raise ArgumentError(f"{name} is {value}; expected {least} to {most}")
    if given.text("background") == "transparent":
        raise refuse(
            400, "background is transparent, and images here have no transparent parts; leave it out", "background"
        )
    name = given.text("output_format").lower() or "png"
    if name not in _FORMATS:
        raise ArgumentError(f"output_format is {brief(name)}; expected {', '.join(_FORMATS)}")
    wanted = given.text("response_format") or "b64_json"
    if wanted not in ("b64_json", "url"):
        raise ArgumentError(f"response_format is {brief(wanted)}; expected b64_json or url")
    quality = given.text("quality").lower() or "auto"
    width, height = _size(given.text("size").lower())
    fields = {
        "prompt": prompt,
        "width": width,
        "height": height,
        "steps": given.whole("steps") or _steps(service, quality),
        "seed": given.whole("seed"),
        "guidance_scale": given.number("guidance_scale"),
        **{each: given.text(each) or None for each in _OWN},
        **sources,
    }
    work = service.make_work(fields, count, _model(service, given.text("model")), ORIGIN)
    return Asked(
        work,
        kind,
        _FORMATS[name],
        _compression(given),
        wanted == "url",
        given.flag("stream"),
        partial,
        quality,
        given.text("background") or "opaque",
    )


def _model(service: Service, name: str) -> str | None:
    """One of ours, if it is; clients have the names of OpenAI's own in their code."""
    try:
        return service.catalog.model(name)
    except UnknownError:
        return None


def _steps(service: Service, quality: str) -> int | None:
    steps = _STEPS.get(quality)
    return None if steps is None else min(steps, service.settings.max_steps)


def _size(text: str) -> tuple[int | None, int | None]:
    if text in ("", "auto"):
        return None, None
    if (found := _SIZE.fullmatch(text)) is None:
        raise ArgumentError(f"size is {brief(text)}; expected WIDTHxHEIGHT such as 1024x1024, or auto")
    return int(found[1]), int(found[2])


def _compression(given: Given) -> int | None:
    value = given.whole("output_compression")
    if value is not None and not 0 <= value <= 100:
        raise ArgumentError(f"output_compression is {value}; expected 0 to 100")
    return value
