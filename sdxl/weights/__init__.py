"""Names and files: safetensors, the key table, checkpoints in every layout, the hub, conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exports import exports

if TYPE_CHECKING:
    from .audit import Report as Report
    from .audit import inspect as inspect
    from .checkpoint import Checkpoint as Checkpoint
    from .checkpoint import open_checkpoint as open_checkpoint
    from .checkpoint import open_component as open_component
    from .component import Component as Component
    from .container import TensorFile as TensorFile
    from .hashes import file_hash as file_hash
    from .hashes import tensor_hash as tensor_hash
    from .hub import resolve as resolve
    from .info import ModelInfo as ModelInfo
    from .library import find_by_hash as find_by_hash
    from .library import find_model as find_model
    from .save import convert as convert
    from .save import save_folder as save_folder
    from .save import save_single as save_single
else:  # a type checker that saw it would take any name
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "audit": ("Report", "inspect"),
            "checkpoint": ("Checkpoint", "open_checkpoint", "open_component"),
            "component": ("Component",),
            "container": ("TensorFile",),
            "hashes": ("file_hash", "tensor_hash"),
            "hub": ("resolve",),
            "info": ("ModelInfo",),
            "library": ("find_by_hash", "find_model"),
            "save": ("convert", "save_folder", "save_single"),
        },
    )
