"""The arguments of a recorded image again, and what a record says of an image that its request does not make again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, brief, warn
from ..images.parameters import Parameters
from ..images.record import read_parameters
from ..runtime.precision import Precision, recorded_precision
from .argument_groups import SOURCES
from .defaults import recorded_request
from .foreign_files import as_arguments, find_embeddings, find_loras, find_model_files, find_upscaler, warn_of_unmapped
from .model_request import RECORDED, ModelRequest
from .overriding import outdated
from .recorded_model import find_recorded
from .request import Request
from .tags import untagged_loras

_STOPPED, _GENERATOR = "stopped_after", "generator"


def with_notes(parameters: list[dict[str, Any]], stopped_after: int | None, reason: str | None) -> list[dict[str, Any]]:
    """The records of images that are the guess after so many steps, or whose noise no seed makes again for a reason."""
    stopped = {} if stopped_after is None else {_STOPPED: stopped_after}
    if reason is None:
        return [{**each, **stopped} for each in parameters]
    return [
        {**each, **stopped, _GENERATOR: reason, "request": {**each["request"], "seed": None}} for each in parameters
    ]


def check_replay(parameters: Mapping[str, Any], where: object, given: Collection[str]) -> None:
    """Raise `ArgumentError` for the record of an image that cannot be generated again, and warn if it would become
    another one. `where` names the image, `given` are the arguments that are not taken from the record.
    """
    model = parameters["model"]
    if "model" not in {*model, *given}:
        raise ArgumentError(f"{where} was made by networks in memory; give the model")
    if model.get("trainable"):
        _warn(f"{where} was made by a model in training, whose weights may differ from its file's")
    if _GENERATOR in parameters and "seed" not in given:
        raise ArgumentError(
            f"{where} cannot be generated again: {parameters[_GENERATOR]}, and no seed stands for that; give a seed "
            "for another image of the same request"
        )
    if _STOPPED in parameters:
        _warn(f"{where} is the guess after {parameters[_STOPPED]} steps, where its call was stopped; all steps run now")


def _warn(why: str) -> None:
    warn(f"{why}; the result will differ")


@dataclass(frozen=True)
class Replay:
    """The arguments of a recorded image: of `Request`, of `ModelRequest`, and the hashes of its own sources, by
    argument. `precision` is what it was computed in, if that is known. `recorded` is what the file says.
    """

    recorded: Parameters
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
    control_folders: Sequence[Path] = (),
) -> Replay:
    """The recorded arguments of an image, overridden by the given ones."""
    recorded = read_parameters(source)
    arguments = recorded_request(recorded) if recorded.tool == "sdxl" else recorded.request
    request = as_arguments(arguments, [each.name for each in fields(Request)], source)
    request = {name: value for name, value in request.items() if name not in SOURCES}
    request |= outdated(request, given)
    if missing := {name: what for name, what in _not_contained(recorded) if name not in given}:
        them, flags = "them" if len(missing) > 1 else "it", " and ".join(f"--{name}" for name in missing)
        raise ArgumentError(
            f"{source} was made from {' and '.join(missing.values())}, which it does not contain; give {them} again "
            f"with {flags}"
        )
    hashes = {name: str(identity) for name, identity in recorded.sources.items()} if recorded.is_record else {}
    if recorded.is_record:
        found = _find_record(recorded, source, given, model, request)
    else:
        folders = lora_folders, embedding_folders, control_folders
        found = _find_foreign(recorded, source, given, model, request, folders)
    precision = None if "dtype" in model else recorded_precision(recorded["model"])
    return Replay(recorded, request | given, found | model, hashes, precision)


def _not_contained(recorded: Parameters) -> Iterator[tuple[str, str]]:
    """The arguments that are images and not in the file, and what each is; also controls and references of an own
    record, whose images were no files.
    """
    for name, identity in recorded.sources.items():
        what = {"image": "an image", "mask": "a mask"}.get(name, name)
        yield name, f"{name} {identity}" if identity and not recorded.is_record else what
    for name in ("control", "reference") if recorded.is_record else ():
        entries = recorded["request"].get(name)
        if isinstance(entries, list) and any(isinstance(each, dict) and _lacks_image(each) for each in entries):
            yield name, f"the image of a {name}"


def _lacks_image(record: Mapping[str, Any]) -> bool:
    shown = [record.get("image"), record.get("mask", "")]
    while any(isinstance(each, list) for each in shown):  # for each image of the batch, and several of one
        shown = [inner for each in shown for inner in (each if isinstance(each, list) else [each])]
    return None in shown


def _find_record(
    recorded: Parameters, source: Path, given: dict[str, Any], model: dict[str, Any], request: dict[str, Any]
) -> dict[str, Any]:
    """The model of our own record; the `request` loses what another prompt does not ask for."""
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
    folders: tuple[Sequence[Path], Sequence[Path], Sequence[Path]],
) -> dict[str, Any]:
    """The model of another tool's parameters; the `request` gets the files of its LoRAs and upscaler."""
    warn_of_unmapped(recorded, source)
    found: dict[str, Any] = dict(find_model_files(recorded, source, model))
    if "loras" not in given and recorded.loras:
        request["loras"] = find_loras(recorded, source, folders[0])
    if "embeddings" not in model and (embeddings := find_embeddings(recorded, source, folders[1])):
        found["embeddings"] = embeddings
    if "hires" not in given and request.get("hires"):
        request["hires"] = find_upscaler(request["hires"], source, folders[2])
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
