"""What a job of this service takes to make a recorded image again: the page puts it into its controls."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from ..adapters.kind import Name
from ..errors import ArgumentError, brief
from ..images.parameters import Parameters
from ..images.upscalers import is_network
from ..pipeline.hires import read_hires
from ..pipeline.recorded_model import SOURCES
from ..pipeline.request import Request
from ..pipeline.tags import untagged_loras
from ..sampling.samplers import SAMPLERS
from .catalog import STRANGER, Catalog
from .refusals import UnknownError
from .work import takes

_DEFAULTS = {each.name: each.default for each in fields(Request) if each.default not in (None, MISSING)}
_ALWAYS = ("prompt", "prompt_syntax")
_ADAPTERS: Mapping[str, tuple[Name, str]] = {
    "loras": ("lora", "file"),
    "control": ("control", "net"),
    "reference": ("reference", "adapter"),
}
_NEAREST = "lanczos"  # to a network
_OF_FILES = ("image", "mask")  # which a record does not hold


def again(recorded: Parameters, catalog: Catalog) -> dict[str, Any]:
    """The record without paths, and beside it `arguments` of a job, without images and without what is a default.
    `sources` names the images that it was made from, `missing` says in words what else the arguments lack.
    """
    record = STRANGER.public(recorded)
    stated = {**record["request"], "loras": _loras(record["request"])}
    given = {name: value for name, value in stated.items() if value is not None and name not in _OF_FILES}
    taken, plain = takes(), _plain(given)
    missing = [name for name in given if name not in taken]
    missing += [f"{name} {brief(value)} ({reason})" for name, (value, reason) in recorded.unmapped.items()]
    left = {
        name: each for name, each in given.items() if name in taken and (name in _ALWAYS or each != plain.get(name))
    }
    arguments = left if "prompt_syntax" in stated else {"prompt_syntax": "plain"} | left
    if "num_images" in arguments:
        arguments["batches"] = arguments.pop("num_images")
    for name, (kind, key) in _ADAPTERS.items():
        if entries := arguments.get(name):
            missing += [f"the mask of {each[key]}" for each in entries if each.get("mask") is not None]
            here = _names(kind, catalog)
            arguments[name] = [_entry(each, key, here) for each in entries]
    if arguments.get("hires"):
        arguments["hires"], lacking = _hires(arguments["hires"], catalog)
        missing += lacking
    if record["model"].get("model"):
        model, lacking = _model(record["model"], catalog)
        arguments |= {} if model is None else {"model": model}
        missing += lacking
    return record | {"arguments": arguments, "sources": [*recorded.sources], "missing": missing}


def _loras(request: Mapping[str, Any]) -> Any:
    """Those that the prompt does not ask for itself; all where a value is one that this version does not know."""
    try:
        return untagged_loras(request)
    except ArgumentError:
        return request.get("loras")


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, and what every record states though a job need not."""
    sampler = SAMPLERS.get(given.get("sampler", ""))
    stated = {"eta": sampler.options.get("eta", 0.0) if sampler else 0.0}
    return _DEFAULTS | stated | ({} if "compat" in given else {"long_prompt": "chunk"})


def _model(recorded: Mapping[str, Any], catalog: Catalog) -> tuple[str | None, list[str]]:
    """The name that a recorded model has here, or None, and what this service lacks of it: the model itself, or another
    file that is loaded into it.
    """
    stated = recorded["model"]
    for name in (stated, _file(stated)):  # that of a command may be a relative path
        with suppress(UnknownError):
            model = catalog.model(name)
            break
    else:
        return None, [f"the model {stated}"]
    own = catalog.models[model]
    parts = [(part, recorded[part], getattr(own, part)) for part in SOURCES[1:] if recorded.get(part)]
    return model, [
        f"the {part} {other}" for part, other, here in parts if here is None or _file(other) != _file(os.fspath(here))
    ]


def _file(name: str) -> str:
    return PureWindowsPath(name).name  # whose slashes are of either kind


def _names(kind: Name, catalog: Catalog) -> dict[str, str]:
    """The names that files have here, by these and by the names of the files; the first where several are alike."""
    files = catalog.files(kind)
    return {each.path.name: name for name, each in reversed(files.items())} | {name: name for name in files}


def _hires(record: Any, catalog: Catalog) -> tuple[Any, list[str]]:
    """A hires fix by the name that its network has here, or with another upscaler; and what is lacking."""
    try:
        upscaler = read_hires(record).upscaler
    except ArgumentError:  # of another version
        return record, []
    if not is_network(upscaler):
        return record, []
    here = _names("upscaler", catalog)
    left = _entry(record | {"upscaler": upscaler}, "upscaler", here)
    if left["upscaler"] in here.values():
        return left, []
    what = f"hires.upscaler {brief(left['upscaler'])} (no network here has its name; {_NEAREST} takes its place)"
    return left | {"upscaler": _NEAREST}, [what]


def _entry(record: Mapping[str, Any], key: str, here: Mapping[str, str]) -> dict[str, Any]:
    """An entry for an adapter, by the name that its file has here."""
    named = record[key]
    left = {
        name: value for name, value in record.items() if name not in (*_OF_FILES, "hash", "encoder", "upscaler_hash")
    }
    return left | {key: here.get(named) or here.get(PurePosixPath(named).name, named)}
