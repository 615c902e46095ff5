"""From a request to images: plan, loading, the denoising loop, what is in memory, and the record of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exports import exports

if TYPE_CHECKING:
    from .conventions import Conventions as Conventions
    from .encoding import EncodedPrompt as EncodedPrompt
    from .model_request import ModelRequest as ModelRequest
    from .pipeline import Pipeline as Pipeline
    from .plan import Plan as Plan
    from .plan import make_plan as make_plan
    from .profiles import PROFILES as PROFILES
    from .request import Request as Request
    from .result import PipelineStep as PipelineStep
    from .result import Result as Result
    from .sources import read_sources as read_sources
    from .tokens import Tokens as Tokens
else:  # a type checker that saw it would take any name
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "conventions": ("Conventions",),
            "encoding": ("EncodedPrompt",),
            "model_request": ("ModelRequest",),
            "pipeline": ("Pipeline",),
            "plan": ("Plan", "make_plan"),
            "profiles": ("PROFILES",),
            "request": ("Request",),
            "result": ("PipelineStep", "Result"),
            "sources": ("read_sources",),
            "tokens": ("Tokens",),
        },
    )
