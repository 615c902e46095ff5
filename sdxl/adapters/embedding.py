"""Textual inversion as a value of a model's statement: which file, and the word for it. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, brief
from .statement import check_texts

Files = str | Path | tuple[str | Path, ...]


@dataclass(frozen=True)
class Embedding:
    """`file` is a path, a name in the folder of embeddings, owner/name/file on the hub, or diffusers' two files. `word`
    stands for its vectors in prompts (None: the file's own, else its name). With a `hash`, another file is refused.
    """

    file: Files
    word: str | None = None
    hash: str | None = None

    def __post_init__(self) -> None:
        files = self.files
        if not files or not all(isinstance(each, (str, Path)) and str(each) for each in files):
            raise ArgumentError(f"the file of an embedding is {brief(self.file)}; expected a path, or a pair of paths")
        check_texts(self, f"embedding {files[0]}", ("word", "hash"))

    @property
    def files(self) -> tuple[str | Path, ...]:
        """The file, or both."""
        return self.file if isinstance(self.file, tuple) else (self.file,)

    def record(self) -> dict[str, Any]:
        """As JSON has it; equal for equal values."""
        names = [str(each) for each in self.files]
        optional = {name: value for name in ("word", "hash") if (value := getattr(self, name)) is not None}
        return {"file": names[0] if len(names) == 1 else names, **optional}


def read_embeddings(values: Any) -> tuple[Embedding, ...]:
    """Embeddings from a list (files, tuples of two files, objects of JSON, `Embedding`s) or from a mapping of words to
    files. Raises `ArgumentError`.
    """
    if isinstance(values, Mapping):
        return tuple(Embedding(_files(file), str(word)) for word, file in values.items())
    if isinstance(values, (str, Path, Embedding)):
        return (_read(values),)
    if not isinstance(values, Sequence):
        raise ArgumentError(f"embeddings is {brief(values)}; expected a list of files, or {{word: file}}")
    return tuple(map(_read, values))


def read_flag(text: str) -> Embedding:
    """An embedding from [WORD=]FILE, as on the command line; a file of that name is taken as it is."""
    word, equals, file = text.partition("=")
    return Embedding(file, word) if equals and not os.path.isfile(text) else Embedding(text)


def _read(value: Any) -> Embedding:
    if isinstance(value, Embedding):
        return value
    if isinstance(value, Mapping):
        names = [each.name for each in fields(Embedding)]
        if "file" not in value or any(key not in names for key in value):
            raise ArgumentError(f"{brief(dict(value))} is no embedding; its values are {', '.join(names)}")
        return Embedding(**{**value, "file": _files(value["file"])})
    return Embedding(_files(value))


def _files(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
