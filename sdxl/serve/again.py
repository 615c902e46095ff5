"""What a job of this service takes to make a recorded image again: the page puts it into its controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import PurePosixPath
from typing import Any

from ..adapters.kind import Name
from ..pipeline.request import Request
from ..pipeline.tags import untagged_loras
from ..sampling.samplers import SAMPLERS
from .catalog import Catalog
from .refusals import UnknownError
from .work import taken

_DEFAULTS = {each.name: each.default for each in fields(Request) if each.default not in (None, MISSING)}
_ALWAYS = ("prompt", "prompt_syntax")
_ADAPTERS: Mapping[str, tuple[Name, str]] = {
    "loras": ("lora", "file"),
    "control": ("control", "net"),
    "reference": ("reference", "adapter"),
}
_OF_FILES = ("image", "mask")  # which a record does not hold


def again(recorded: Mapping[str, Any], catalog: Catalog) -> dict[str, Any]:
    """`arguments` of a job, without images and without what is a default; `missing` says in words what they lack."""
    stated = {**recorded["request"], "loras": untagged_loras(recorded["request"])}
    given = {name: value for name, value in stated.items() if value is not None and name not in _OF_FILES}
    missing = [name for name in given if name not in taken()]
    plain = _plain(given)
    left = {
        name: each for name, each in given.items() if name in taken() and (name in _ALWAYS or each != plain.get(name))
    }
    arguments = left if "prompt_syntax" in stated else {"prompt_syntax": "plain"} | left
    if "num_images" in arguments:
        arguments["batches"] = arguments.pop("num_images")
    for name, (kind, key) in _ADAPTERS.items():
        if entries := arguments.get(name):
            missing += [f"the mask of {each[key]}" for each in entries if each.get("mask") is not None]
            arguments[name] = [_entry(each, kind, key, catalog) for each in entries]
    if model := recorded["model"].get("model"):
        try:
            arguments["model"] = catalog.model(model)
        except UnknownError:
            missing.append(f"the model {model}")
    return {"arguments": arguments, "missing": missing}


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, and what every record states though a job need not."""
    sampler = SAMPLERS.get(given.get("sampler", ""))
    stated = {"eta": sampler.options.get("eta", 0.0) if sampler else 0.0}
    return _DEFAULTS | stated | ({} if "compat" in given else {"long_prompt": "chunk"})


def _entry(record: Mapping[str, Any], kind: Name, key: str, catalog: Catalog) -> dict[str, Any]:
    """An entry for an adapter, by the name that its file has here."""
    named, file = record[key], PurePosixPath(record[key]).name
    here = (name for name, each in catalog.files(kind).items() if named == name or file == each.path.name)
    left = {name: value for name, value in record.items() if name not in (*_OF_FILES, "hash", "encoder")}
    return left | {key: next(here, named)}
