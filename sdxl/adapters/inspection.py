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
    if pair := _embedding_keys(file.shapes):
        shapes = {key: file.shapes[key] for key in pair}
        widths = {key: shape[-1] for key, shape in shapes.items() if shape}
        second = shapes[pair[1]]
        count = second[0] if len(second) > 1 else 1
        return EmbeddingReport(file.path, "textual inversion of SDXL", composed(file.path.stem), count, widths)
    return report_adapter(read_adapter(file.path))


def _embedding_keys(shapes: identify.Shapes) -> tuple[str, str] | None:
    """The keys of the vectors in a file of textual inversion; None for any other file."""
    return next((pair for pair in EMBEDDINGS if all(key in shapes for key in pair)), None)


def _adapter_file(path: Path) -> TensorFile | None:
    """The file, or a folder's only file, if it holds an adapter and no model."""
    if os.path.isdir(path):
        if any(os.path.exists(path / name) for name in ("model_index.json", "config.json")):
            return None
        try:
            path = only_file(path, "LoRA")
        except CheckpointError:
            return None
    elif not os.path.isfile(path):
        return None
    try:
        file = TensorFile(path)
    except CheckpointError:
        return None
    if identify.contents(file.shapes)[0] != "unknown" or is_control(file.shapes):
        return None
    return file if _embedding_keys(file.shapes) or split(file.shapes)[0] else None
