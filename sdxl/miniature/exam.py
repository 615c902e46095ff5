"""Marks how well a pipeline generates the miniature's world: prompts from scenes, images from the pipeline, marks from
the judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from ..pipeline.pipeline import Pipeline
from .judge import View, agrees, look
from .scenes import HEART, SHAPES, Pixels, Scene, caption, draw, held_out, random_scene, to_image


def make_scenes(
    count: int, seed: int, things: int, unseen: bool = False, make: Callable[..., Scene] = random_scene
) -> list[Scene]:
    """Random scenes with `count` different captions."""
    rng = np.random.default_rng(seed)
    scenes: dict[str, Scene] = {}
    while len(scenes) < count:
        scene = make(rng, things, unseen)
        scenes.setdefault(caption(scene), scene)
    return list(scenes.values())


def make_changes(count: int, seed: int) -> list[tuple[Scene, Scene]]:
    """Scenes of one thing, each with the scene in which another thing, of another colour and shape, is in its place."""
    rng = np.random.default_rng(seed)
    changes = []
    for old in make_scenes(count, seed, things=1):
        while True:
            thing = random_scene(rng, things=1).things[0]
            other = thing.colour not in (old.ground, old.things[0].colour) and thing.shape != old.things[0].shape
            if other and not held_out(thing.colour, thing.shape, old.ground):
                break
        changes.append((old, replace(old, things=(replace(thing, size=""),))))
    return changes


def make_picture(scene: Scene) -> Image.Image:
    """The drawn scene."""
    return to_image(draw(scene))


def make_mask(scene: Scene, side: int = 128) -> Image.Image:
    """A mask over the one thing of a scene, with room for another one."""
    thing = scene.things[0]
    radius = max(1.15 * thing.radius + 0.03, 0.33)
    mask = Image.new("L", (side, side), 0)
    box = [round(side * edge) for edge in (thing.x - radius, thing.y - radius, thing.x + radius, thing.y + radius)]
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


def paint(pipeline: Pipeline, scenes: Sequence[Scene], batch: int = 25, **arguments: Any) -> list[Pixels]:
    """An image (H, W, 3) of each scene's plain caption; image i has seed i. `arguments` are the pipeline's; a list has
    one entry for each scene.
    """
    settings = {"steps": 25, "sampler": "euler", **arguments}
    images: list[Pixels] = []
    for start in range(0, len(scenes), batch):
        some = scenes[start : start + batch]
        own: dict[str, Any] = {k: v[start : start + batch] if isinstance(v, list) else v for k, v in settings.items()}
        result = pipeline([caption(scene) for scene in some], seed=start, output="tensor", progress=False, **own)
        assert isinstance(result.images, Tensor)
        images += list(result.images.permute(0, 2, 3, 1).cpu().numpy())
    return images


def views(pipeline: Pipeline, scenes: Sequence[Scene], **arguments: Any) -> list[View]:
    """The judge's view of the image of each scene. It knows hearts where there is one among the scenes."""
    shapes = SHAPES if all(thing.shape != HEART for scene in scenes for thing in scene.things) else (*SHAPES, HEART)
    return [look(pixels, shapes) for pixels in paint(pipeline, scenes, **arguments)]


def mark(pipeline: Pipeline, scenes: Sequence[Scene], **arguments: Any) -> float:
    """The fraction of scenes whose image is entirely right."""
    seen = views(pipeline, scenes, **arguments)
    return float(np.mean([agrees(view, scene) for view, scene in zip(seen, scenes, strict=True)]))
