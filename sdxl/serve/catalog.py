"""What clients may name: models given at the start, and the files of the folders of LoRAs and embeddings.

A client gives names, never paths; and it gets names, never paths: those of records and of messages are cut off here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters.lookup import adapter_files
from ..errors import ArgumentError, brief
from ..pipeline.model_request import ModelRequest
from ..pipeline.recorded_model import SOURCES
from .refusals import UnknownError

_SUFFIX = ".safetensors"
_PATH = re.compile(r"(?<![\w/:.\\])(?:[A-Za-z]:[\\/]|/)(?:[^\s'\":;,/\\]+[\\/])+([^\s'\":;,/\\]*)")


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

    def loras(self) -> dict[str, Path]:
        """The LoRAs by their names: those of the files, with their folders where two are alike."""
        return _named(self.lora_dir)

    def embeddings(self) -> dict[str, Path]:
        """The embeddings by their names."""
        return _named(self.embedding_dir)

    def lora(self, name: str) -> Path:
        """The file of a LoRA, by its name with or without ending. Raises `UnknownError`."""
        known = self.loras()
        found = known.get(name) or known.get(name.removesuffix(_SUFFIX))
        if found is None:
            names = f"there are {', '.join(known)}" if known else "there are none"
            raise UnknownError(f"loras has {brief(name)}, which is no name of a LoRA here; {names}", "loras")
        return found

    def controls(self) -> dict[str, Path]:
        """The networks of controls by their names; of diffusers' folders those of the folders."""
        found, folder = _named(self.control_dir), self.control_dir
        folders = [] if folder is None else [path.parent for path in sorted(folder.glob("*/config.json"))]
        files = {name: path for name, path in found.items() if path.parent not in folders}
        return files | {path.name: path for path in folders}

    def control(self, name: str) -> Path:
        """The network of a control, by its name with or without ending. Raises `UnknownError`."""
        known = self.controls()
        found = known.get(name) or known.get(name.removesuffix(_SUFFIX))
        if found is None:
            names = f"there are {', '.join(known)}" if known else "there are none"
            raise UnknownError(f"control has {brief(name)}, which is no name of a network here; {names}", "control")
        return found

    def public(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of an image with file names in place of paths."""
        model, request = dict(parameters["model"]), dict(parameters["request"])
        model |= {name: public_name(model[name]) for name in SOURCES if name in model}
        if model.get("embeddings"):
            model["embeddings"] = [_with_name(each, self.embedding_dir) for each in model["embeddings"]]
        if request.get("loras"):
            request["loras"] = [_with_name(each, self.lora_dir) for each in request["loras"]]
        if request.get("control"):
            request["control"] = [{**each, "net": _name(each["net"], self.control_dir)} for each in request["control"]]
        return {**parameters, "model": model, "request": request}

    def message(self, text: str) -> str:
        """A message with file names in place of paths."""
        roots = [str(each) for each in (self.lora_dir, self.embedding_dir, self.control_dir) if each is not None]
        models = [str(value) for each in self.models.values() if (value := each.model) and os.path.isabs(value)]
        roots += [str(Path(each).parent) for each in models]
        for root in sorted(roots, key=len, reverse=True):
            text = text.replace(root + os.sep, "").replace(root, Path(root).name)
        return _PATH.sub(r"\1", text)


def make_catalog(requests: Sequence[ModelRequest]) -> Catalog:
    """The catalog of the models that are given at the start, whose folders are the same. Raises `ArgumentError`."""
    models: dict[str, ModelRequest] = {}
    for request in requests:
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
        if folder is not None and not folder.is_dir():
            raise ArgumentError(f"{folder} is no folder; give the folder of the files")
    return Catalog(models, *folders)


def public_name(model: str | os.PathLike[str]) -> str:
    """The name of a model that is shown to clients: a hub's id as it is, of a path the last part."""
    text = os.fspath(model)
    if os.path.exists(os.path.expanduser(text)) or os.path.isabs(text) or text.startswith(("~", ".")):
        return Path(os.path.abspath(os.path.expanduser(text))).name
    return text


def _named(folder: Path | None) -> dict[str, Path]:
    files = [] if folder is None else list(adapter_files([folder]))
    stems = [path.stem for path in files]
    names = [
        stem if stems.count(stem) == 1 else path.relative_to(str(folder)).with_suffix("").as_posix()
        for path, stem in zip(files, stems, strict=True)
    ]
    return dict(zip(names, files, strict=True))


def _with_name(record: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """The record of an adapter; a name that is no path, such as one in a prompt, stays."""
    files = record["file"]
    names = [_name(each, folder) for each in (files if isinstance(files, list) else [files])]
    return {**record, "file": names if isinstance(files, list) else names[0]}


def _name(file: str, folder: Path | None) -> str:
    path = Path(file)
    if not path.is_absolute():
        return file
    inside = folder is not None and path.is_relative_to(folder)
    return path.relative_to(str(folder)).as_posix() if inside else path.name
