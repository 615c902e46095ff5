"""The judge of the miniature's images: finds their content from the pixels alone, without a network.

`look` names the content without the prompt; `agrees` compares it with the scene of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .scenes import COLOURS, SHAPES, Pixels, Scene, draw, shade, shape_distance

Mask = NDArray[np.bool_]  # (H, W)

LEAST_AREA = 0.005  # of the image; a smaller region is dirt, not a thing
LEAST_OVERLAP = 0.75  # intersection over union with the best template; below it a shape has no name
_GRID = 64  # pixels along the side of a template
_REACH = 2.4  # from the middle of a template to its side, in root mean square radii of the shape


@dataclass(frozen=True)
class Seen:
    """A coloured shape in an image: its centre of mass and its box (left, top, right, bottom), in pixels."""

    colour: str
    shape: str  # "" where no shape fits
    x: float
    y: float
    box: tuple[int, int, int, int]

    def surrounds(self, other: Seen) -> bool:
        """Whether the box of another thing lies within this one's."""
        left, top, right, bottom = self.box
        return left < other.box[0] and top < other.box[1] and right > other.box[2] and bottom > other.box[3]


@dataclass(frozen=True)
class View:
    """The ground's colour and the things on it, largest first."""

    ground: str
    things: tuple[Seen, ...]


def look(pixels: Pixels, shapes: Sequence[str] = SHAPES) -> View:
    """The content of an image (H, W, 3) in 0..1. Things of one colour count as one, without a shape. `shapes` are those
    that have a name.
    """
    colours = _nearest_colour(pixels)
    edge = np.concatenate([colours[:4].ravel(), colours[-4:].ravel(), colours[:, :4].ravel(), colours[:, -4:].ravel()])
    ground = int(np.bincount(edge, minlength=len(COLOURS)).argmax())
    masks = {name: _solid(colours == i) for i, name in enumerate(COLOURS) if i != ground}
    masks = {name: mask for name, mask in masks.items() if mask.sum() >= LEAST_AREA * mask.size}
    things = sorted((_see(name, mask, shapes) for name, mask in masks.items()), key=_box_area, reverse=True)
    if len(things) == 2 and things[0].surrounds(things[1]):
        things[0] = _see(things[0].colour, _filled(masks[things[0].colour]), shapes)
    return View(list(COLOURS)[ground], tuple(things))


def area(pixels: Pixels, colour: str) -> float:
    """The part of an image (H, W, 3) in 0..1 that has a colour, edges between others left out."""
    return float(_solid(_nearest_colour(pixels) == list(COLOURS).index(colour)).mean())


def overlap(pixels: Pixels, scene: Scene) -> float:
    """How much the things of an image (H, W, 3) in 0..1 lie where they do in the drawn scene: the intersection over
    union of the pixels of a thing's colour, the least of all things.
    """
    made, drawn = _nearest_colour(pixels), _nearest_colour(draw(scene, pixels.shape[:2]))
    colours = [list(COLOURS).index(thing.colour) for thing in scene.things]
    return min(_overlap(made == colour, drawn == colour) for colour in colours)


def agrees(view: View, scene: Scene) -> bool:
    """Whether an image shows the scene: ground, things, their colours and shapes, their relation, and nothing else."""
    if view.ground != scene.ground or len(view.things) != len(scene.things):
        return False
    by_colour = {seen.colour: seen for seen in view.things}
    found = [by_colour[thing.colour] for thing in scene.things if thing.colour in by_colour]
    if [seen.shape for seen in found] != [thing.shape for thing in scene.things]:
        return False
    return not scene.relation or _related(found[0], found[1], scene.relation)


def _related(first: Seen, second: Seen, relation: str) -> bool:
    right, down = second.x - first.x, second.y - first.y
    if relation == "inside":
        return second.surrounds(first)
    return right > abs(down) if relation == "left of" else down > abs(right)


def _nearest_colour(pixels: Pixels) -> NDArray[np.intp]:
    """The index of each pixel's colour (H, W); the second tone of a pattern counts as its colour."""
    tones = np.stack([tone for name in COLOURS for tone in (np.array(COLOURS[name]) / 255, shade(name))])
    distances = ((pixels[:, :, None] - tones) ** 2).sum(axis=-1)
    return distances.argmin(axis=-1) // 2


def _solid(mask: Mask) -> Mask:
    """The mask without regions that are less than three pixels wide and far from wider ones: edges blend into a third
    colour."""
    core = _grow(mask, False)
    for _ in range(5):
        core = mask & _grow(core, True)
    return core


def _grow(mask: Mask, value: bool) -> Mask:
    """Grow the True (or the False) region by one pixel in all eight directions."""
    padded = np.pad(mask == value, 1)
    height, width = mask.shape
    grown = np.any([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
    return grown == value


def _box(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _box_area(seen: Seen) -> int:
    left, top, right, bottom = seen.box
    return (right - left) * (bottom - top)


def _see(colour: str, mask: Mask, shapes: Sequence[str]) -> Seen:
    rows, columns = np.nonzero(mask)
    return Seen(colour, _shape(mask, shapes), float(columns.mean()), float(rows.mean()), _box(mask))


def _filled(mask: Mask) -> Mask:
    """The mask and the pixels that it surrounds on all four sides."""
    seen = np.logical_or.accumulate
    left, right = seen(mask, axis=1), seen(mask[:, ::-1], axis=1)[:, ::-1]
    above, below = seen(mask, axis=0), seen(mask[::-1], axis=0)[::-1]
    return left & right & above & below


def _shape(mask: Mask, shapes: Sequence[str]) -> str:
    """The name of the template that fits best when both have the same centre and size."""
    left, top, right, bottom = _box(mask)
    if not 0.7 < (right - left) / (bottom - top) < 1.4:
        return ""
    aligned = _aligned(mask)
    overlaps = {name: _overlap(aligned, _template(name)) for name in shapes}
    best = max(overlaps, key=lambda name: overlaps[name])
    return best if overlaps[best] >= LEAST_OVERLAP else ""


def _overlap(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / (a | b).sum())


def _aligned(mask: Mask) -> Mask:
    """The mask on a template's grid: its centre of mass in the middle, its root mean square radius a fixed length.

    Both are means over all pixels: a blurred tip does not move the rest.
    """
    rows, columns = np.nonzero(mask)
    centre = rows.mean(), columns.mean()
    radius = float(np.sqrt(((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2).mean()))
    offsets = _REACH * radius * ((np.arange(_GRID) + 0.5) / _GRID * 2 - 1)
    rows, columns = (np.round(middle + offsets).astype(int) for middle in centre)
    room = int(_REACH * radius) + 1  # a corner of the grid may lie outside the image
    return np.pad(mask, room)[np.ix_(rows + room, columns + room)]


@cache
def _template(shape: str) -> Mask:
    v, u = np.mgrid[-1.2:1.2:400j, -1.2:1.2:400j]
    return _aligned(shape_distance(shape, u, v) < 0)
