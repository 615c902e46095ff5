"""Adapters: LoRA and its relatives, from any layout of files to exact changes of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exports import exports

if TYPE_CHECKING:
    from .adapter import Adapter as Adapter
    from .adapter import read_adapter as read_adapter
    from .changes import make_changes as make_changes
    from .control import Control as Control
    from .embedding import Embedding as Embedding
    from .formulas import FORMULAS as FORMULAS
    from .inspection import EmbeddingReport as EmbeddingReport
    from .inversion import read_inversion as read_inversion
    from .lora import LoRA as LoRA
    from .matching import make_host as make_host
    from .matching import match as match
    from .reference import Reference as Reference
    from .report import AdapterReport as AdapterReport
    from .report import report_adapter as report_adapter
else:  # a type checker that saw it would take any name
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "adapter": ("Adapter", "read_adapter"),
            "changes": ("make_changes",),
            "control": ("Control",),
            "formulas": ("FORMULAS",),
            "embedding": ("Embedding",),
            "inspection": ("EmbeddingReport",),
            "inversion": ("read_inversion",),
            "lora": ("LoRA",),
            "matching": ("make_host", "match"),
            "reference": ("Reference",),
            "report": ("AdapterReport", "report_adapter"),
        },
    )
