"""`generate --verify`: whether an image is the one that its record makes, as a line and as an exit status."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ArgumentError
from .console import UNPRINTED, as_json, show

if TYPE_CHECKING:
    from ..pipeline.replay import Replay
    from ..pipeline.result import Result

STATUS = {"identical": 0, "close": 4, "different": 5}


def check_verification(options: argparse.Namespace) -> None:
    """Raise `ArgumentError` for flags that mean nothing beside --verify."""
    if not options.verify:
        return
    if not options.source:
        raise ArgumentError("--verify is given without an image; give --from picture.png")
    if options.output:
        raise ArgumentError("--output is given beside --verify, which writes no file; leave one out")
    if options.grid or options.x or options.y:
        raise ArgumentError("a grid is asked for beside --verify, which writes no file; leave one out")
    if getattr(options, "num_images", 1) != 1:
        raise ArgumentError("--num-images is given beside --verify, which compares one image; leave it out")


def show_verification(source: Path, again: Replay, result: Result, in_json: bool) -> int:
    """Print what was found; the exit status."""
    from ..pipeline.verify import compare

    found = compare(source, again, result)
    line = str(found)
    if in_json:
        facts = {"difference": found.difference, "share": found.share, "reasons": list(found.reasons)}
        line = as_json({"file": str(source), "verdict": found.verdict, **facts})
    return STATUS[found.verdict] if show(line) else UNPRINTED
