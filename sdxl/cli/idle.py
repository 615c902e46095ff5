"""Warnings about flags of the model that are given and change nothing. Those of the image are the pipeline's."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..errors import warn


def warn_of_idle_flags(options: argparse.Namespace, model: str | os.PathLike[str]) -> None:
    """Warn of flags that have no effect on the files of a model."""
    from ..pipeline.loading import idle_sources

    given = {name: getattr(options, name, None) for name in ("revision", "variant")}
    for name, reason in idle_sources(model, **given):
        warn(f"--{name} {given[name]} has no effect: {reason}")


def warn_of_variant(variant: str, path: Path) -> None:
    """Warn of a variant that a file or folder does not have."""
    from ..weights.weight_files import idle_variant

    if (reason := idle_variant(path, variant)) is not None:
        warn(f"--variant {variant} has no effect: {reason}")
