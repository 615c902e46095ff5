"""Which kind of adapter a file is, from its header alone: what a folder of them is sorted by. Imports no torch but for
IP-Adapters.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ..errors import CheckpointError
from ..weights import control_kinds, identify
from ..weights.container import TensorFile, Weights
from ..weights.control_kinds import UNION, kind_of, prefix_of
from ..weights.families import CONTEXTS
from ..weights.folder import WEIGHTS
from ..weights.reference_rows import is_ip_adapter
from .family import context_widths, foreign
from .keys import EMBEDDINGS, split

Name = Literal["lora", "embedding", "control", "reference"]
_LORAS = ("a LoRA", "a LyCORIS adapter")  # in the words of `identify.foreign`
_MOST_FILES = 16_384  # whose kinds are remembered


@dataclass(frozen=True)
class AdapterKind:
    """What a file is: a `control` is a network for control images, a `reference` an IP-Adapter. `types` is the number
    of a union's types, 0 for any other file.
    """

    name: Name
    types: int = 0


def read_kind(path: Path) -> AdapterKind | None:
    """The kind of a file, or of a diffusers folder with a network for control images; None for all else, for what is of
    another family than SDXL, and for what cannot be read. A file is read once, as long as it does not change.
    """
    try:
        files = sorted(path.glob(WEIGHTS)) if os.path.isdir(path) else [path]
        return _kind(tuple((file, (found := file.stat()).st_size, found.st_mtime_ns) for file in files))
    except OSError:
        return None


@lru_cache(_MOST_FILES)
def _kind(files: tuple[tuple[Path, int, int], ...]) -> AdapterKind | None:
    """The kind of the first file of them, by path, size and time of change, that is of any."""
    for path, _, _ in files:
        try:
            file = TensorFile(path)
            if (name := _name(file)) is not None:
                return AdapterKind(name, _types(file.shapes) if name == "control" else 0)
        except (CheckpointError, LookupError):  # of shapes that no kind has
            continue
    return None


def _name(file: TensorFile) -> Name | None:
    shapes = file.shapes
    if is_ip_adapter(shapes):
        return "reference" if _is_reference(file) else None
    if control_kinds.is_control(shapes):
        return None if kind_of(shapes) is None else "control"
    if any(second in shapes for _, second in EMBEDDINGS):
        return "embedding"
    return "lora" if _is_lora(file) else None


def _is_reference(file: TensorFile) -> bool:
    from .ip_adapter import canonical_key, refusal

    return refusal(Weights([file], canonical_key)) is None


def _is_lora(file: TensorFile) -> bool:
    shapes = file.shapes
    if identify.contents(shapes)[0] != "unknown" or identify.foreign(shapes) not in (None, *_LORAS):
        return False
    return bool(split(shapes)[0]) and foreign(shapes) is None and not context_widths(shapes) & CONTEXTS.keys()


def _types(shapes: identify.Shapes) -> int:
    """How many types of images a union takes."""
    return shapes[f"{prefix_of(shapes)}task_embedding"][0] if kind_of(shapes) == UNION else 0
