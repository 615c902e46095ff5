"""`--compile`: what is compiled outlives the process, and the temporary folder of the system."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from ..weights.hash_cache import cache_folder

if TYPE_CHECKING:
    from ..pipeline.pipeline import Pipeline


def compile_pipeline(pipe: Pipeline) -> None:
    """Compile a pipeline for CUDA, with torch's cache beside our own caches, unless the environment names a place for
    it. torch looks there for the same blocks, versions and card.
    """
    if pipe.device.type == "cuda":
        with suppress(RuntimeError):  # a user without a home
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
        os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")  # older versions of torch keep nothing else
    pipe.compile()
