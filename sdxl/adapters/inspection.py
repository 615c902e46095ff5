"""`inspect` for every file: a model's, or an adapter's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..weights import audit, identify
from ..weights.container import TensorFile
from ..weights.control_kinds import is_control
from ..weights.library import composed
from .adapter import read_adapter
from .keys import EMBEDDINGS, split
from .lookup import only_file
from .reference_report import report_reference
from .report import AdapterReport, report_adapter


@dataclass(frozen=True)
class EmbeddingReport:
    """A file of textual inversion: a `word` and how many `vectors` stand for it, and their widths by key."""

    path: Path
    kind: str
    word: str
    vectors: int
    widths: dict[str, int]


Report = audit.Report | AdapterReport | EmbeddingReport


def inspect(path: str | Path, variant: str | None = None) -> Report:
    """What a file or folder is: a model with its components, a LoRA or its relative, an embedding, an IP-Adapter, or an
    image encoder. Of a model's folder, `variant` says which files. Raises `CheckpointError`.
    """
    where = Path(os.path.expanduser(path))
    if (report := report_reference(where)) is not None:
        return report
    file = _adapter_file(where)
    if file is None:
        return audit.inspect(path, variant)
    opened = TensorFile(file)
    for first, second in EMBEDDINGS:
        if first in opened.shapes and second in opened.shapes:
            shapes = {key: opened.shapes[key] for key in (first, second)}
            widths = {key: shape[-1] for key, shape in shapes.items() if shape}
            count = shapes[second][0] if len(shapes[second]) > 1 else 1
            return EmbeddingReport(file, "textual inversion of SDXL", composed(file.stem), count, widths)
    return report_adapter(read_adapter(file))


def _adapter_file(path: Path) -> Path | None:
    """The file, or a folder's only file, if it holds an adapter and no model."""
    if os.path.isdir(path):
        if (path / "model_index.json").exists() or (path / "config.json").exists():
            return None
        try:
            path = only_file(path, "LoRA")
        except CheckpointError:
            return None
    elif not os.path.isfile(path):
        return None
    try:
        shapes = TensorFile(path).shapes
    except CheckpointError:
        return None
    if identify.contents(shapes)[0] != "unknown" or is_control(shapes):
        return None
    is_embedding = any(first in shapes and second in shapes for first, second in EMBEDDINGS)
    return path if is_embedding or split(shapes)[0] else None
