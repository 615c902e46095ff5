"""What clients may name: models given at the start, and the files of the folders of LoRAs, embeddings and networks.

A client gives names, never paths, and no text of a client reaches the file system: it is looked up among the names that
are here. A client gets names, never paths: those of records and of messages are cut off here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

from ..adapters.kind import AdapterKind, Name, read_kind
from ..errors import ArgumentError, brief
from ..pipeline.model_request import ModelRequest
from ..pipeline.recorded_model import SOURCES
from ..weights.library import composed, walk, weights_in
from ..weights.nearby import folder_fault
from .refusals import UnknownError

_SUFFIX = ".safetensors"
_SHOWN = 20  # names in a message
_PATH = re.compile(r"(?<![\w/:.\\])(?:[A-Za-z]:[\\/]|/)(?:[^\s'\":;,/\\]+[\\/])+([^\s'\":;,/\\]*)")
# of each kind, the argument that names it, and what the argument wants
_WANTED: Mapping[Name, tuple[str, str]] = {
    "lora": ("loras", "LoRA"),
    "embedding": ("embeddings", "embedding"),
    "control": ("control", "network"),
    "reference": ("reference", "IP-Adapter"),
    "upscaler": ("hires", "network"),
}


@dataclass(frozen=True)
class Named:
    """A file, or a diffusers folder, that clients can name."""

    path: Path
    kind: AdapterKind


@dataclass(frozen=True)
class Catalog:
    """`models` are the statements of the models by the names that clients use; the first is the one to begin with."""

    models: Mapping[str, ModelRequest]
    lora_dir: Path | None = None
    embedding_dir: Path | None = None
    control_dir: Path | None = None

    def model(self, name: str) -> str:
        """The name of a model; a file's may be given with or without its ending. Raises `UnknownError`."""
        for each in (name, f"{name}{_SUFFIX}", name.removesuffix(_SUFFIX)):
            if each in self.models:
                return each
        raise UnknownError(f"model is {brief(name)}; there are {', '.join(self.models)}", "model")

    def folder(self, kind: Name) -> Path | None:
        """The folder in which files of a kind are."""
        return {"lora": self.lora_dir, "embedding": self.embedding_dir}.get(kind, self.control_dir)

    def files(self, kind: Name) -> dict[str, Named]:
        """What there is of a kind, by name: that of the file or folder, with the folders above where two are alike. The
        headers of new files are read, so it may take time.
        """
        folder = self.folder(kind)
        if folder is None:
            return {}
        read = ((path, read_kind(path)) for path in _entries(folder))
        found = [Named(path, known) for path, known in read if known is not None and known.name == kind]
        stems = [_stem(each.path) for each in found]
        names = [
            stem if stems.count(stem) == 1 else composed((each.path.parent / stem).relative_to(folder).as_posix())
            for each, stem in zip(found, stems, strict=True)
        ]
        return dict(zip(names, found, strict=True))

    def find(self, kind: Name, name: str) -> Path:
        """The file of a kind, by its name with or without ending. Raises `UnknownError`."""
        known, name = self.files(kind), composed(name)
        found = known.get(name) or known.get(name.removesuffix(_SUFFIX))
        if found is None:
            argument, what = _WANTED[kind]
            shown = [*known][:_SHOWN] + [f"{len(known) - _SHOWN} more"] * (len(known) > _SHOWN)
            names = f"there are {', '.join(shown)}" if known else "there are none"
            raise UnknownError(f"{argument} has {brief(name)}, which is the name of no {what} here; {names}", argument)
        return found.path

    def public(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of an image with file names in place of paths."""
        model, request = dict(parameters["model"]), dict(parameters["request"])
        model |= {name: public_name(model[name]) for name in SOURCES if name in model}
        if model.get("embeddings"):
            model["embeddings"] = [_cut(each, "file", self.embedding_dir) for each in model["embeddings"]]
        for argument, names, folder in (
            ("loras", ("file",), self.lora_dir),
            ("control", ("net",), self.control_dir),
            ("reference", ("adapter", "encoder"), self.control_dir),
        ):
            for name in names if request.get(argument) else ():
                request[argument] = [_cut(each, name, folder) for each in request[argument]]
        if isinstance(request.get("hires"), Mapping):
            request["hires"] = _cut(request["hires"], "upscaler", self.control_dir)
        return {**parameters, "model": model, "request": request}

    def message(self, text: str) -> str:
        """A message with file names in place of paths."""
        roots = [str(each) for each in (self.lora_dir, self.embedding_dir, self.control_dir) if each is not None]
        models = [str(getattr(each, name) or "") for each in self.models.values() for name in SOURCES]
        roots += [str(Path(each).parent) for each in models if os.path.isabs(each)]
        for root in sorted(filter(lambda each: Path(each).name, roots), key=len, reverse=True):
            own = rf"(?<![\w.~-]){re.escape(root)}"  # and not the beginning or the end of another folder
            text = re.sub(own + re.escape(os.sep), "", text)
            text = re.sub(own + r"(?![\w-]|\.\w)", Path(root).name.replace("\\", r"\\"), text)
        return _PATH.sub(r"\1", text)


STRANGER = Catalog({})
"""Of nothing: cuts paths off what clients send without saying which of them are of this machine."""


def make_catalog(requests: Sequence[ModelRequest]) -> Catalog:
    """The catalog of the models that are given at the start, whose folders are the same. Raises `ArgumentError`."""
    models: dict[str, ModelRequest] = {}
    for request in map(_with_whole_paths, requests):
        name = public_name(request.model)
        if name in models:
            raise ArgumentError(f"two models have the name {name}; rename one, clients could not tell them apart")
        models[name] = request
    if not models:
        raise ArgumentError("there is no model; give one with --model")
    first = requests[0]
    given = (first.lora_dir, first.embedding_dir, first.control_dir)
    folders = [None if each is None else Path(each).absolute() for each in given]
    for folder in folders:
        if folder is not None and (fault := folder_fault(folder)):
            raise ArgumentError(f"{folder} {fault}; give the folder of the files")
    return Catalog(models, *folders)


def _with_whole_paths(request: ModelRequest) -> ModelRequest:
    """The same with absolute paths of its files, so that a record's text alone says what is a path."""
    given = {name: os.path.expanduser(value) for name in SOURCES if (value := getattr(request, name)) is not None}
    return replace(request, **{name: os.path.abspath(each) for name, each in given.items() if os.path.exists(each)})


def public_name(model: str | os.PathLike[str]) -> str:
    """The name of a model that is shown to clients: a hub's id as it is, of a path the last part. Its text decides."""
    text = os.fspath(model)
    is_path = os.path.isabs(text) or text.startswith(("~", ".")) or PureWindowsPath(text).drive
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1] if is_path else text


def _entries(folder: Path) -> list[Path]:
    """The files, and the diffusers folders in place of theirs."""
    found: list[Path] = []
    for place, _, names in walk(folder):
        files = [*weights_in(place, names)]
        found += [place] if files and "config.json" in names and place != folder else files
    return sorted(found)


def _stem(path: Path) -> str:
    return composed(path.stem if path.suffix == _SUFFIX else path.name)


def _cut(record: Mapping[str, Any], name: str, folder: Path | None) -> dict[str, Any]:
    """The record of an adapter with the name of its file, or of its files; one that is no path, such as one in a
    prompt, stays.
    """
    if name not in record or record[name] is None:
        return {**record}
    files = record[name]
    names = [_name(each, folder) for each in (files if isinstance(files, list) else [files])]
    return {**record, name: names if isinstance(files, list) else names[0]}


def _name(file: str, folder: Path | None) -> str:
    path = Path(file)
    if not path.is_absolute():
        return public_name(file) if PureWindowsPath(file).drive else file
    inside = folder is not None and path.is_relative_to(folder)
    return path.relative_to(str(folder)).as_posix() if inside else path.name
