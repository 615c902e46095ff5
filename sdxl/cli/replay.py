"""`generate --from`: the arguments of an image again, and what differs from the first time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, SDXLWarning, brief
from ..pipeline.model_request import RECORDED, ModelRequest
from ..pipeline.request import SOURCES, Request
from .console import note

if TYPE_CHECKING:
    from ..pipeline.pipeline import Pipeline
    from ..pipeline.sources import Sources
    from ..runtime.precision import Precision


def replay(
    source: Path, given: dict[str, Any], model: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """The recorded arguments of an image, overridden by the given ones, and the hashes of its own sources."""
    from ..images.record import read_parameters
    from ..pipeline.defaults import recorded_request
    from ..pipeline.recorded_model import find_recorded
    from ..pipeline.replay import check_replay
    from ..pipeline.tags import untagged_loras

    recorded = read_parameters(source)
    check_replay(recorded, source, {*given, *model})
    known = {each.name for each in fields(Request)}
    request = {name: value for name, value in recorded_request(recorded).items() if name in known}
    hashes = {name: str(value) for name in SOURCES if (value := request.pop(name, None)) is not None}
    for name in hashes:
        if name not in given:
            raise ArgumentError(
                f"{source} was made from {name}, which it does not contain; give it again with --{name}"
            )
    if "prompt" in given and "loras" in request:
        request["loras"] = untagged_loras(request)
    found = dict(find_recorded(recorded["model"], model))
    return request | given, _recorded_model(source, recorded["model"]) | found | model, hashes


def _recorded_model(source: Path, recorded: Mapping[str, Any]) -> dict[str, Any]:
    model = {name: value for name, value in recorded.items() if name in RECORDED}
    options = {each.name: each.metadata["option"] for each in fields(ModelRequest)}
    for name, value in model.items():
        if type(value) is not (list if options[name].repeated else options[name].type):
            raise ArgumentError(
                f"the parameters in {source} are damaged ({name} is {brief(value)}); give another PNG of sdxl"
            )
    return model


def replay_precision(source: Path) -> Precision | None:
    """The precision that an image records."""
    from ..images.record import read_parameters
    from ..runtime.precision import recorded_precision

    return recorded_precision(read_parameters(source)["model"])


def compare_precision(precision: Precision, pipe: Pipeline) -> None:
    """Say so where this machine would have chosen another precision than an image has."""
    from ..runtime.placement import fastest

    if (own := fastest(pipe.device)) != precision:
        note(f"{precision}, as recorded; this machine would choose {own}")


def compare_sources(sources: Sources, hashes: dict[str, str]) -> None:
    """Warn if an image is generated again from another source than the first time."""
    from ..images.image import fingerprint

    for name, recorded in hashes.items():
        if fingerprint(sources.arguments()[name][0]) != recorded:
            warnings.warn(
                f"--{name} is not the one that the recorded image was made from; the result will differ",
                SDXLWarning,
                stacklevel=2,
            )
