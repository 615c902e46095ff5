"""Stable Diffusion XL, hand-written in PyTorch: `Pipeline`, `inspect`, `convert`.

Names are imported when they are first used, so that `import sdxl` and the command line's help need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .checkpoint import convert
    from .errors import SDXLError
    from .inspection import inspect
    from .pipeline import Pipeline, Result
    from .request import Request

_HOMES = {
    "Pipeline": "pipeline",
    "Request": "request",
    "Result": "pipeline",
    "SDXLError": "errors",
    "convert": "checkpoint",
    "inspect": "inspection",
}

__all__ = ["Pipeline", "Request", "Result", "SDXLError", "__version__", "convert", "inspect"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
