"""What lies in a model's folder: the names of its files, and the files of text and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, brief, unread_advice

# Limits of a header or JSON file: its bytes, its lists and objects. The official header has 0.35 million and 7,500, a
# full-size tokenizer.json 4 million and 49,000. The worst JSON within the limits takes less than 1 s and 160 MB.
MOST_JSON = 6 * 2**20
_MOST_NESTED = 400_000
_MOST_SHOWN = 200  # characters of a name
_MOST_LISTED = 6  # names in an error message
WEIGHTS = "[!.]*.safetensors"  # of the names in a folder: hidden files are none, which macOS makes beside others


def entries(folder: Path) -> list[str]:
    """The names in a model's folder, in order, without hidden files: macOS puts one beside each file on other disks."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be read: {error.strerror}; {unread_advice(error, 'check the path')}"
        ) from error


def read_text(path: Path) -> str:
    """A text file of a model: UTF-8, of at most `MOST_JSON` bytes."""
    if not os.path.isfile(path):
        raise CheckpointError(f"{path} is missing; download the model again")
    try:
        with path.open("rb") as file:
            data = file.read(MOST_JSON + 1)
        if len(data) > MOST_JSON:
            raise CheckpointError(f"{path} has more than {MOST_JSON} bytes and is not read; download it again")
        return data.decode("utf-8-sig")  # editors on Windows put a mark in front
    except (OSError, UnicodeDecodeError) as error:
        advice = unread_advice(error, "download it again")
        raise CheckpointError(f"{path} cannot be read ({error}); {advice}") from error


def parse_json(text: str, where: object) -> dict[str, Any]:
    """A JSON object; `where` names it in errors."""
    try:
        data = load_json(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} cannot be read as JSON ({error}); download it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{where} is not a JSON object; download it again")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    return parse_json(read_text(path), path)


def list_some(names: Sequence[str]) -> str:
    """Names for an error message, with the number of those left out."""
    shown = ", ".join(map(_printable, names[:_MOST_LISTED]))
    more = len(names) - _MOST_LISTED
    return shown if more <= 0 else f"{shown} and {more} more"


def _printable(name: str) -> str:
    return name if name.isprintable() and len(name) <= _MOST_SHOWN else brief(name)


def load_json(text: str, make_object: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None) -> Any:
    """What a text of JSON says; `make_object` makes an object of its pairs. Raises `ValueError`."""
    if text.count("[") + text.count("{") > _MOST_NESTED:
        raise ValueError(f"it has more than {_MOST_NESTED} lists and objects")
    return json.loads(text, object_pairs_hook=make_object)
