"""`inspect` for every file: a model's, or an adapter's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..weights import audit, hub, identify
from ..weights.container import TensorFile
from ..weights.control_kinds import is_control
from ..weights.library import composed
from .adapter import adapter_of_file
from .image_encoder import is_encoder_folder
from .keys import EMBEDDINGS, split
from .lookup import only_file
from .reference_report import report_encoder, report_reference
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
    path = hub.on_disk(path)
    if not os.path.isdir(path):
        file = TensorFile(path)
        return report_reference(file) or (_report(file) if _is_adapter(file) else audit.inspect_file(file))
    if is_encoder_folder(path):
        return report_encoder(path)
    only = _only_adapter(path)
    return audit.inspect_folder(path, variant) if only is None else _report(only)


def _report(file: TensorFile) -> AdapterReport | EmbeddingReport:
    """The report of an adapter's file."""
    if pair := _embedding_keys(file.shapes):
        shapes = {key: file.shapes[key] for key in pair}
        widths = {key: shape[-1] for key, shape in shapes.items() if shape}
        second = shapes[pair[1]]
        count = second[0] if len(second) > 1 else 1
        return EmbeddingReport(file.path, "textual inversion of SDXL", composed(file.path.stem), count, widths)
    return report_adapter(adapter_of_file(file))


def _embedding_keys(shapes: identify.Shapes) -> tuple[str, str] | None:
    """The keys of the vectors in a file of textual inversion; None for any other file."""
    return next((pair for pair in EMBEDDINGS if all(key in shapes for key in pair)), None)


def _only_adapter(folder: Path) -> TensorFile | None:
    """The only file of a folder, if it holds an adapter and no model."""
    if (folder / "model_index.json").exists() or (folder / "config.json").exists():
        return None
    try:
        file = TensorFile(only_file(folder, "LoRA"))
        return file if _is_adapter(file) else None
    except CheckpointError:
        return None


def _is_adapter(file: TensorFile) -> bool:
    """Whether a file holds an adapter and no model."""
    if identify.contents(file.shapes)[0] != "unknown" or is_control(file.shapes):
        return False
    return bool(_embedding_keys(file.shapes) or split(file.shapes)[0])
