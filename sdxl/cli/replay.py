"""`generate --from`: the arguments of an image again, and what differs from the first time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, SDXLWarning, brief
from ..pipeline.model_request import RECORDED, ModelRequest
from ..pipeline.request import SOURCES, Request
from .console import note

if TYPE_CHECKING:
    from ..images.parameters import Parameters
    from ..pipeline.pipeline import Pipeline
    from ..pipeline.sources import Sources
    from ..runtime.precision import Precision


@dataclass(frozen=True)
class Replay:
    """The arguments of a recorded image: of `Request`, of `ModelRequest`, and the hashes of its own sources, by
    argument. `precision` is what it was computed in, if that is known.
    """

    request: dict[str, Any]
    model: dict[str, Any]
    sources: dict[str, str]
    precision: Precision | None = None


def replay(
    source: Path,
    given: dict[str, Any],
    model: dict[str, Any],
    lora_folders: Sequence[Path] = (),
    embedding_folders: Sequence[Path] = (),
) -> Replay:
    """The recorded arguments of an image, overridden by the given ones."""
    from ..images.record import read_parameters
    from ..pipeline.defaults import recorded_request
    from ..pipeline.foreign import as_arguments
    from ..runtime.precision import recorded_precision

    recorded = read_parameters(source)
    arguments = recorded_request(recorded) if recorded.tool == "sdxl" else recorded.request
    request = as_arguments(arguments, [each.name for each in fields(Request)], source)
    request = {name: value for name, value in request.items() if name not in SOURCES}
    for name, identity in recorded.sources.items():
        if name not in given:
            what = f"{name} {identity}" if identity and not recorded.is_record else name
            raise ArgumentError(
                f"{source} was made from {what}, which it does not contain; give it again with --{name}"
            )
    hashes = {name: str(identity) for name, identity in recorded.sources.items()} if recorded.is_record else {}
    if recorded.is_record:
        found = _find_record(recorded, source, given, model, request)
    else:
        found = _find_foreign(recorded, source, given, model, request, (lora_folders, embedding_folders))
    precision = None if "dtype" in model else recorded_precision(recorded["model"])
    return Replay(request | given, found | model, hashes, precision)


def _find_record(
    recorded: Parameters, source: Path, given: dict[str, Any], model: dict[str, Any], request: dict[str, Any]
) -> dict[str, Any]:
    """The model of our own record; the `request` loses what another prompt does not ask for."""
    from ..pipeline.recorded_model import find_recorded
    from ..pipeline.replay import check_replay
    from ..pipeline.tags import untagged_loras

    check_replay(recorded, source, {*given, *model})
    if "prompt" in given and "loras" in request:
        request["loras"] = untagged_loras(request)
    return _recorded_model(source, recorded["model"]) | dict(find_recorded(recorded["model"], model))


def _find_foreign(
    recorded: Parameters,
    source: Path,
    given: dict[str, Any],
    model: dict[str, Any],
    request: dict[str, Any],
    folders: tuple[Sequence[Path], Sequence[Path]],
) -> dict[str, Any]:
    """The model of another tool's parameters; the `request` gets the files of its LoRAs."""
    from ..pipeline.foreign import find_embeddings, find_loras, find_model_files, warn_of_unmapped

    warn_of_unmapped(recorded, source)
    found: dict[str, Any] = dict(find_model_files(recorded, source, model))
    if "loras" not in given and recorded.loras:
        request["loras"] = find_loras(recorded, source, folders[0])
    if "embeddings" not in model and (embeddings := find_embeddings(recorded, source, folders[1])):
        found["embeddings"] = embeddings
    return found


def _recorded_model(source: Path, recorded: Mapping[str, Any]) -> dict[str, Any]:
    model = {name: value for name, value in recorded.items() if name in RECORDED}
    options = {each.name: each.metadata["option"] for each in fields(ModelRequest)}
    for name, value in model.items():
        if type(value) is not (list if options[name].repeated else options[name].type):
            raise ArgumentError(
                f"the parameters in {source} are damaged ({name} is {brief(value)}); give another PNG of sdxl"
            )
    return model


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
