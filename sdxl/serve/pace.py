"""How a call goes on, as a job shows it: steps, seconds left, and small images of the present guess."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..pipeline.result import PipelineStep

PREVIEW_SECONDS = 0.25
_PREVIEW_SIDE = 512  # pixels of each image at most


@dataclass
class Pace:
    """When a batch began, when its last preview was made, and whether it ended with a guess."""

    began: float
    shown: float = 0.0
    is_stopped: bool = False


def progress(step: PipelineStep, pace: Pace, now: float, batches_left: int = 0) -> dict[str, Any]:
    """What a step changes in the state of its job."""
    finished = step.index + 1 if step.total else 0
    changes: dict[str, Any] = {"step": finished, "steps": step.total}
    if finished:
        each = (now - pace.began) / finished
        changes["seconds_left"] = each * (step.total - finished + step.total * batches_left)
    if step.is_last:
        changes["stage"] = "decoding"
    return changes


def strip_of(images: Sequence[Image]) -> bytes | None:
    """Guesses of images side by side, small, as a JPEG."""
    if not images:
        return None
    from ..pipeline.notebook import side_by_side

    for image in images:
        image.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
    data = io.BytesIO()
    side_by_side(images).save(data, format="JPEG", quality=80)
    return data.getvalue()
