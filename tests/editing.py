"""Changes of a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def edit(
    path: Path, new: Path, change: Callable[[dict[str, torch.Tensor]], object], metadata: dict[str, str] | None = None
) -> Path:
    """Write the file `path` as `new` after a change of its tensors, with its metadata or others."""
    tensors = load_file(path)
    change(tensors)
    description = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    save_file(tensors, new, metadata or description["__metadata__"])
    return new
