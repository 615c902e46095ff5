"""How well a pipeline draws the miniature's world: prompts from scenes, pictures from the pipeline, marks from the
judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..pipeline import Pipeline
from .judge import View, agrees, look
from .scenes import Pixels, Scene, caption, random_scene


def make_scenes(count: int, seed: int, things: int, unseen: bool = False) -> list[Scene]:
    """Random scenes with `count` different captions."""
    rng = np.random.default_rng(seed)
    scenes: dict[str, Scene] = {}
    while len(scenes) < count:
        scene = random_scene(rng, things, unseen)
        scenes.setdefault(caption(scene), scene)
    return list(scenes.values())


def paint(pipeline: Pipeline, scenes: Sequence[Scene], batch: int = 25, **arguments: Any) -> list[Pixels]:
    """A picture (H, W, 3) of each scene's plain caption; picture i has seed i. `arguments` are the pipeline's."""
    settings = {"steps": 25, "sampler": "euler", **arguments}
    pictures: list[Pixels] = []
    for start in range(0, len(scenes), batch):
        part = scenes[start : start + batch]
        result = pipeline([caption(scene) for scene in part], seed=start, output="tensor", progress=False, **settings)
        assert isinstance(result.images, Tensor)
        pictures += list(result.images.permute(0, 2, 3, 1).cpu().numpy())
    return pictures


def views(pipeline: Pipeline, scenes: Sequence[Scene], **arguments: Any) -> list[View]:
    """What the judge sees in the picture of each scene."""
    return [look(pixels) for pixels in paint(pipeline, scenes, **arguments)]


def mark(pipeline: Pipeline, scenes: Sequence[Scene], **arguments: Any) -> float:
    """The share of scenes whose picture is wholly right."""
    seen = views(pipeline, scenes, **arguments)
    return float(np.mean([agrees(view, scene) for view, scene in zip(seen, scenes, strict=True)]))
