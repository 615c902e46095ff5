"""The model that an image records, found again."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from ..errors import CheckpointError
from ..weights import hub, library

_SHA256 = re.compile("[0-9a-f]{64}")
SOURCES = ("model", "refiner", "unet", "vae")
"""The fields of `ModelRequest` that name files."""


@dataclass(frozen=True)
class RecordedModel(os.PathLike[str]):
    """A model as an image records it: the `name` that was typed, and the hash, of which other tools record the first
    digits or none. Where it was found by its hash, `path` says where it is; records keep the name.
    """

    name: str
    sha256: str
    path: Path | None = None

    def __str__(self) -> str:
        return self.name

    def __fspath__(self) -> str:
        return self.name if self.path is None else str(self.path)


def find_recorded(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[tuple[str, RecordedModel]]:
    """The fields of a record's "model" that name files with a hash, without those that are `given`. A file that is not
    where it was is looked for by its hash, in the user's cache of hashes and in `SDXL_MODELS_DIR`. Raises
    `CheckpointError` if it is not found.
    """
    hashes: Any = recorded.get("sha256")
    for part in SOURCES if isinstance(hashes, Mapping) else ():
        name, sha256 = recorded.get(part), hashes.get(part)
        if part in given or not isinstance(name, str) or not isinstance(sha256, str):
            continue
        if _SHA256.fullmatch(sha256):
            yield part, RecordedModel(name, sha256, _find(part, name, sha256))


def _find(part: str, name: str, sha256: str) -> Path | None:
    """Where a model is that is not where its name says; None if it is, or if the hub may have it."""
    if os.path.exists(hub.local(name)):
        return None
    may_be_on_hub = hub.is_hub_name(name)
    # the record may be of another system: a path of Windows has slashes of either kind
    found = library.find_by_hash(sha256, PureWindowsPath(name).name, thorough=not may_be_on_hub)
    if found is None and not may_be_on_hub:
        raise CheckpointError(
            f"{name} does not exist, and no other file with its hash {sha256[:10]} is known; give the {part} with "
            f"--{part}, or set {library.VARIABLE} to the folder of your models"
        )
    return found
