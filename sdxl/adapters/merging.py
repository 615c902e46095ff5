"""A model written with LoRAs merged into its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..weights import save
from ..weights.checkpoint import Checkpoint
from ..weights.hashes import file_hash
from .adapter import read_adapter
from .changes import make_changes
from .lookup import find_file, own_folders
from .lora import LoRA, read_loras
from .matching import make_host, match


def convert(
    source: str | Path,
    target: str | Path,
    variant: str | None = None,
    loras: Sequence[Any] = (),
    lora_dir: str | Path | None = None,
) -> None:
    """Write a single file as a diffusers folder, or a folder as a single file (`target` ends in .safetensors).

    Weights are copied bit for bit and keep their dtypes. With `loras`, as for `Pipeline.set_loras`, those that they
    change are computed in float32 and rounded to the dtype of the file. Raises `SDXLError`.
    """
    chosen = read_loras(loras)
    folders = own_folders(lora_dir, "lora_dir")
    save.convert(source, target, variant, lambda checkpoint: _changes(checkpoint, chosen, folders))


def _changes(
    checkpoint: Checkpoint, loras: Sequence[LoRA], folders: Sequence[Path]
) -> Mapping[str, Callable[[Tensor], Tensor]]:
    if not loras:
        return {}
    hosts, found = [make_host(checkpoint.components)], []
    for lora in loras:
        path = find_file(lora.file, folders, "LoRA")
        found.append((lora, file_hash(path), match(read_adapter(path), hosts)))
    return make_changes(found, [""])
