"""The body of a new job: arguments in JSON with images in base64, or a form with the arguments and files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from ..errors import ArgumentError, brief
from .body import MOST_PARTS, is_form, parse_json, read_form, read_json
from .problems import refuse
from .service import Service
from .uploads import decoded, from_base64

_IMAGES = ("image", "mask")
_STEERING = ("control", "reference")  # fields whose entries have images of their own


async def read_job(service: Service, request: Request) -> dict[str, Any]:
    """The arguments, from an object of JSON with images in base64, or from a form with one and files."""
    if is_form(request):
        form = await read_form(request, service.settings.max_body)
        names = ("request", *_IMAGES, *_STEERING)
        if unknown := [name for name in (*form.texts, *form.files) if name not in names]:
            raise refuse(400, f"the form has {brief(unknown[0])}; expected {', '.join(names)}")
        given = parse_json(form.text("request") or "{}")
        sent: Mapping[str, list[Any]] = {name: form.files.get(name, []) for name in _IMAGES}
        files = {name: form.files[name] for name in _STEERING if name in form.files}
    else:
        given = await read_json(request)
        sent = {name: decoded(given.pop(name, None), name) for name in _IMAGES}
        files = {}
    for name, values in sent.items():
        service.check_count(name, values)
    _check_steering(given)
    uploads: dict[str, list[Any]] = {}
    for name, values in sent.items():
        if values:
            uploads[name] = [await service.upload(data, name) for data in values]
    for name in _STEERING:
        if isinstance(entries := given.get(name), list):
            service.check_count(name, entries)
            given[name] = [await _with_images(service, each, name) for each in entries]
    for name, several in files.items():
        given[name] = [
            {**each, "image": await service.upload(data, name)}
            for each, data in zip(_entries(given, name, len(several)), several, strict=True)
        ]
    return {**given, **uploads}


def _entries(given: Mapping[str, Any], name: str, count: int) -> list[dict[str, Any]]:
    """The controls or references whose images are files of a form, in the order of these. Raises `ArgumentError`."""
    entries = given.get(name)
    if not isinstance(entries, list) or len(entries) != count or not all(isinstance(each, dict) for each in entries):
        raise ArgumentError(f"the form has {count} files for {name}; expected one for each entry of {name} in request")
    return entries


def _check_steering(given: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` for more images of controls and references than a form may have files."""
    listed = [given[name] for name in _STEERING if isinstance(given.get(name), list)]
    entries = [each for entries in listed for each in entries if isinstance(each, dict)]
    count = sum(_leaves(each.get(name)) for each in entries for name in _IMAGES)
    if count > MOST_PARTS:
        raise ArgumentError(f"control and reference have {count} images; this service takes at most {MOST_PARTS}")


def _leaves(value: Any) -> int:
    return sum(map(_leaves, value)) if isinstance(value, list) else value is not None


async def _with_images(service: Service, value: Any, name: str) -> Any:
    """A control or a reference with its images decoded; what is neither is reported later."""
    if not isinstance(value, dict):
        return value
    sent = {each: value[each] for each in _IMAGES if value.get(each) is not None}
    return {**value, **{each: await _uploaded(service, images, name) for each, images in sent.items()}}


async def _uploaded(service: Service, value: Any, name: str, depth: int = 2) -> Any:
    """An image in base64, or a list of images and of lists of these, decoded."""
    if not isinstance(value, list) or not depth:
        return await service.upload(from_base64(value, name), name)
    service.check_count(name, value)
    return [await _uploaded(service, each, name, depth - 1) for each in value]
