"""`generate --from`: what differs from the first time that an image was made."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import warn
from .console import note

if TYPE_CHECKING:
    from ..pipeline.pipeline import Pipeline
    from ..pipeline.replay import Replay
    from ..pipeline.sources import Sources
    from ..runtime.precision import Precision


def read_recorded(options: argparse.Namespace, given: dict[str, Any], model: dict[str, Any]) -> Replay:
    """The arguments of the image or text of `--from`, overridden by the given ones."""
    from ..adapters.lookup import own_folders
    from ..pipeline.replay import replay

    folders = (own_folders(getattr(options, name, None), name) for name in ("lora_dir", "embedding_dir", "control_dir"))
    return replay(options.source, given, model, *folders)


def compare_precision(precision: Precision, pipe: Pipeline) -> None:
    """Say so where this machine would have chosen another precision than an image has."""
    from ..runtime.placement import fastest

    if (own := fastest(pipe.device)) != precision:
        note(f"{precision}, as recorded; this machine would choose {own}")


def compare_sources(sources: Sources, hashes: dict[str, str]) -> None:
    """Warn if an image is generated again from another source than the first time."""
    from ..images.image import fingerprint

    for name, recorded in hashes.items():
        if fingerprint(sources.arguments()[name][0]) != recorded:
            warn(f"--{name} is not the one that the recorded image was made from; the result will differ")
