"""Finds the files that another tool's parameters name, by name and by hash, in the user's folders."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..adapters.kind import read_kind
from ..adapters.lookup import find_by_hash, has_hash, named_files
from ..errors import ArgumentError, CheckpointError, warn
from ..images.parameters import Parameters
from ..images.upscalers import is_network, read_upscaler
from ..weights import builtin, library
from ..weights.hashes import file_hash
from .recorded_model import SOURCES, RecordedModel

_ENDINGS = (".safetensors", ".ckpt", ".pt", ".bin")
_What = Literal["LoRA", "embedding", "upscaler"]


def find_model_files(parameters: Parameters, where: object, given: Collection[str]) -> dict[str, RecordedModel]:
    """The files of a model, by field of `ModelRequest`, without those that are `given`. Raises `CheckpointError` for
    one that is not found, and `ArgumentError` if the model is not named.
    """
    if "model" not in given and parameters.model == (None, None):
        raise ArgumentError(f"{where} does not name its model; give it with --model")
    parts = [part for part in SOURCES if part not in given and parameters.file(part) != (None, None)]
    return {part: _find_model(parameters, part, where) for part in parts}


def _find_model(parameters: Parameters, part: str, where: object) -> RecordedModel:
    name, hash = parameters.file(part)
    plain, sha256 = _without_ending((name or "").replace("\\", "/").rpartition("/")[2]), hash or ""
    if plain in builtin.NAMES:
        return RecordedModel(plain, sha256)
    try:
        path = library.find_model(plain)
    except CheckpointError:
        path = None  # several of one name: the hash decides
        if not sha256:
            raise
    path = path or (library.find_by_hash(sha256, plain) if sha256 else None) or library.find_similar(plain)
    if path is None:
        raise CheckpointError(
            f"{where} was made with the {part} {_identity(name, hash)}, which is not found; {_searched()}give it with "
            f"--{part}"
        )
    return RecordedModel(name or path.name, sha256, path)


def _identity(name: str | None, hash: str | None) -> str:
    known = f"the hash {hash}" if hash else "no recorded hash"
    return f"{name} ({known})" if name else f"that has {known}"


def _searched() -> str:
    folder = library.folder()
    if folder is None:
        return f"set {library.VARIABLE} to the folder of your models, or "
    return f"none of the {library.count()} models in {library.VARIABLE} ({folder}) has that name or hash; "


def find_loras(parameters: Parameters, where: object, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The LoRAs of another tool's parameters, with the paths of their files. Raises `CheckpointError`."""
    places = library.places(folders)
    found = []
    for each in parameters.loras:
        name, hash = str(each["file"]), each.get("hash", "")
        path = _find_adapter(name, hash, places, "LoRA")
        if path is None:
            listed = f" in {', '.join(map(str, places))}" if places else ""
            raise CheckpointError(
                f"{where} was made with the LoRA {_identity(name, hash)}, which is not found{listed}; give its folder "
                f"with --lora-dir, set {library.VARIABLE}, or give other LoRAs with --lora"
            )
        found.append({name: value for name, value in each.items() if name != "hash"} | {"file": str(path)})
    return found


def find_embeddings(parameters: Parameters, where: object, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The embeddings of another tool's parameters, with the paths of their files. Warns of one that is not found."""
    found = []
    for each in parameters["model"].get("embeddings") or []:
        word, hash = str(each["word"]), each.get("hash", "")
        path = _find_adapter(word, hash, library.places(folders), "embedding")
        if path is None:
            warn(
                f"{where} was made with the embedding {_identity(word, hash)}, which is not found; its word is read as "
                "any other, and the result will differ. Try --embedding WORD=FILE"
            )
        else:
            found.append({"file": str(path), "word": word})
    return found


def find_upscaler(hires: Mapping[str, Any], where: object, folders: Sequence[Path]) -> dict[str, Any]:
    """A hires fix of another tool's parameters with the path of its network, if it has one. Warns of one that is not
    found.
    """
    name = str(hires.get("upscaler", ""))
    if not name or not is_network(read_upscaler(name)):
        return {**hires}
    path = _find_adapter(read_upscaler(name), "", library.places(folders), "upscaler")
    if path is None:
        warn(
            f"{where} was made with the upscaler {name}, which is not found as .safetensors; lanczos takes its place, "
            f"and the result will differ. Give its folder with --control-dir, or set {library.VARIABLE}"
        )
    return {**hires, "upscaler": "lanczos" if path is None else str(path)}


def _find_adapter(name: str, hash: str, folders: Sequence[Path], what: _What) -> Path | None:
    """The file of a name, if it has the hash; else one with the hash; else that of the name, with a warning. Raises
    `CheckpointError` for several files of one name without a hash.
    """
    files = _of_kind(named_files(_without_ending(name), folders), what)
    if not hash:
        if len(files) > 1 and len({file_hash(path) for path in files}) > 1:
            raise CheckpointError(
                f"{len(files)} files have the name of the {what} {name}, and no hash says which is meant: {files[0]} "
                f"and {files[1]}; give one with --{what.lower()}"
            )
        return files[0] if files else None
    found = next((path for path in files if has_hash(path, hash)), None) or find_by_hash(hash, folders)
    if found is None and len(files) == 1:
        warn(f"{files[0]} has another hash than the {what} {_identity(name, hash)}; the result will differ")
        return files[0]
    return found


def _of_kind(files: list[Path], what: _What) -> list[Path]:
    """Of several files of one name those that are what is looked for."""
    if len(files) < 2:
        return files
    return [path for path in files if (kind := read_kind(path)) is not None and kind.name == what.lower()] or files


def _without_ending(name: str) -> str:
    return next((name.removesuffix(each) for each in _ENDINGS if name.endswith(each)), name)


def warn_of_unmapped(parameters: Parameters, where: object) -> None:
    """Warn of each value that has no counterpart here."""
    for name, (value, reason) in parameters.unmapped.items():
        warn(f"{name} of {where} is {_short(value)}, and is left out: {reason}")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def as_arguments(request: Mapping[str, Any], known: Collection[str], where: object) -> dict[str, Any]:
    """The arguments of a record that this version knows; warns of the others."""
    for name in request:
        if name not in known:
            warn(f"{where} has {name}, which this version does not know; the result will differ")
    return {name: value for name, value in request.items() if name in known}
