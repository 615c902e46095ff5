"""Stable Diffusion XL, hand-written in PyTorch: `Pipeline`, `inspect`, `convert`, `save_png`, and the errors.

Names are imported when they are first used, so that `import sdxl` and the command line's help need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .errors import (
        ArgumentError,
        CheckpointError,
        HubError,
        NonFiniteError,
        OutOfMemoryError,
        OutputError,
        SDXLError,
        SDXLWarning,
    )
    from .inspection import inspect
    from .pipeline import Pipeline, PipelineStep, Result
    from .png import save_png
    from .request import Request
    from .save import convert

_HOMES = {
    "ArgumentError": "errors",
    "CheckpointError": "errors",
    "HubError": "errors",
    "NonFiniteError": "errors",
    "OutOfMemoryError": "errors",
    "OutputError": "errors",
    "Pipeline": "pipeline",
    "PipelineStep": "pipeline",
    "Request": "request",
    "Result": "pipeline",
    "SDXLError": "errors",
    "SDXLWarning": "errors",
    "convert": "save",
    "inspect": "inspection",
    "save_png": "png",
}

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "HubError",
    "NonFiniteError",
    "OutOfMemoryError",
    "OutputError",
    "Pipeline",
    "PipelineStep",
    "Request",
    "Result",
    "SDXLError",
    "SDXLWarning",
    "__version__",
    "convert",
    "inspect",
    "save_png",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
