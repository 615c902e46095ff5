"""Scenes with their things anywhere, and the edges of these things: what the miniature's ControlNet is trained on."""

from __future__ import annotations

from dataclasses import replace

from numpy.random import Generator
from PIL import Image

from ..images.preprocess import canny
from .scenes import Scene, draw, random_scene, to_image

_APART = ("white", "orange")  # of two things on black: their edges show where they touch
_MARGIN = 0.02  # of the window, around the things


def moved_scene(rng: Generator, things: int | None = None, unseen: bool = False) -> Scene:
    """A scene as `random_scene` makes it, moved to any place where all of it is in the window."""
    return move(random_scene(rng, things, unseen), rng)


def move(scene: Scene, rng: Generator) -> Scene:
    """The scene with all its things moved alike, to any place where they are in the window."""
    reach = [1.1 * thing.radius + _MARGIN for thing in scene.things]  # a star's tips are beyond its radius
    x, y = (
        rng.uniform(
            max(each - at for each, at in zip(reach, places, strict=True)),
            min(1 - each - at for each, at in zip(reach, places, strict=True)),
        )
        for places in ([thing.x for thing in scene.things], [thing.y for thing in scene.things])
    )
    return replace(scene, things=tuple(replace(each, x=each.x + x, y=each.y + y) for each in scene.things))


def edges(scene: Scene, size: tuple[int, int] = (128, 128), crop: tuple[int, int] = (0, 0)) -> Image.Image:
    """The outlines of the things, white on black, at `size` (height, width); without colours, ground and pattern."""
    colours = _APART[: len(scene.things)]
    things = tuple(replace(thing, colour=colour) for thing, colour in zip(scene.things, colours, strict=True))
    return canny(to_image(draw(replace(scene, ground="black", pattern="", things=things), size, crop)))
