"""The world of the miniature: images of coloured shapes that a program draws, with their captions.

A `Scene` describes things in fractions of a window. `draw` renders any window of it at any size: crops and original
sizes are exact. `caption` puts it into words. All randomness comes from the generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.floating[Any]]  # (H, W, 3) in 0..1
Grid = NDArray[np.float64]  # (H, W)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 225, 60),
    "green": (45, 165, 70),
    "blue": (45, 85, 220),
    "purple": (145, 60, 180),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
HEART = "heart"  # a shape that the miniature has never seen: its LoRA is trained on it
PATTERNS = ("striped", "checkered", "dotted")
RELATIONS = ("left of", "above", "inside")
WIDE_ENOUGH = ("circle", "square")  # the shapes that another one fits inside
SIZES = {"small": (0.15, 0.19), "": (0.23, 0.31), "large": (0.36, 0.42)}  # radius, as a fraction of the shorter side
BUCKETS = ((128, 128), (112, 144), (144, 112), (96, 160), (160, 96))  # (height, width), all of about one area
MOST_CROP = 48  # pixels


@dataclass(frozen=True)
class Thing:
    """A coloured shape. Its centre is a fraction of the window, its radius a fraction of the window's shorter side."""

    colour: str
    shape: str
    size: str = ""
    x: float = 0.5
    y: float = 0.5
    radius: float = 0.27


@dataclass(frozen=True)
class Scene:
    """One thing, or two in a `relation` (the first is left of, above or inside the second), on a ground.

    `flaw` from 0 to 1 is the amount of bad drawing: wobbling outlines and blotches, which come from `seed`.
    """

    ground: str
    things: tuple[Thing, ...]
    pattern: str = ""
    relation: str = ""
    flaw: float = 0.0
    seed: int = 0

    @property
    def aesthetic_score(self) -> float:
        """7 for a cleanly drawn scene down to 2: the scale that SDXL's refiner was conditioned on."""
        return 7.0 - 5.0 * self.flaw


# ---- scenes --------------------------------------------------------------------------------------------------------


def held_out(colour: str, shape: str, ground: str) -> bool:
    """Whether a combination is kept out of training: a sixth of them, each colour, shape and ground equally often."""
    return (list(COLOURS).index(colour) + (*SHAPES, HEART).index(shape) + 4 * list(COLOURS).index(ground)) % 6 == 0


def random_scene(rng: Generator, things: int | None = None, unseen: bool = False, flawed: bool = False) -> Scene:
    """A scene of one or two things (None: either), all of trained combinations, or all of held-out ones (`unseen`)."""
    count = things or (2 if rng.random() < 0.6 else 1)
    while True:
        ground, *colours = (str(name) for name in rng.choice(list(COLOURS), count + 1, replace=False))
        shapes = [str(name) for name in rng.choice(SHAPES, count)]
        relation = str(rng.choice(RELATIONS)) if count == 2 else ""
        if relation == "inside":
            shapes[1] = str(rng.choice(WIDE_ENOUGH))
        if all(held_out(colour, shape, ground) == unseen for colour, shape in zip(colours, shapes, strict=True)):
            break
    pattern = str(rng.choice(PATTERNS)) if rng.random() < 0.3 else ""
    placed = _place(rng, list(zip(colours, shapes, strict=True)), relation)
    flaw = float(rng.random()) if flawed else 0.0
    return Scene(ground, placed, pattern, relation, flaw, int(rng.integers(2**31)))


def heart_scene(rng: Generator, things: int | None = None, unseen: bool = False) -> Scene:
    """A scene as `random_scene` makes it, in which one thing is a heart; of two, the inner one."""
    while True:
        scene = random_scene(rng, things, unseen)
        at = 0 if scene.relation == "inside" else int(rng.integers(len(scene.things)))
        heart = replace(scene.things[at], shape=HEART)
        if held_out(heart.colour, HEART, scene.ground) == unseen:
            return replace(scene, things=(*scene.things[:at], heart, *scene.things[at + 1 :]))


def sun_scene(rng: Generator, things: int | None = 1, unseen: bool = False) -> Scene:
    """A scene whose one thing is a yellow circle: the miniature's embedding calls it a sun."""
    while True:
        scene = random_scene(rng, things, unseen)
        if scene.ground != "yellow" and held_out("yellow", "circle", scene.ground) == unseen:
            return replace(scene, things=(replace(scene.things[0], colour="yellow", shape="circle"),))


def _place(rng: Generator, looks: list[tuple[str, str]], relation: str) -> tuple[Thing, ...]:
    def near(value: float, spread: float) -> float:
        return value + float(rng.uniform(-spread, spread))

    if not relation:
        (colour, shape), size = looks[0], str(rng.choice(list(SIZES), p=[0.2, 0.6, 0.2]))
        spread = 0.03 if size == "large" else 0.08
        return (Thing(colour, shape, size, near(0.5, spread), near(0.5, spread), float(rng.uniform(*SIZES[size]))),)
    if relation == "inside":
        x, y = near(0.5, 0.04), near(0.5, 0.04)
        inner, outer = looks
        return (
            Thing(*inner, "", near(x, 0.02), near(y, 0.02), near(0.17, 0.015)),
            Thing(*outer, "", x, y, near(0.41, 0.02)),
        )
    ends = []
    for colour_and_shape, along in zip(looks, (0.27, 0.73), strict=True):
        x, y = near(along, 0.02), near(0.5, 0.06)
        ends.append(Thing(*colour_and_shape, "", *((x, y) if relation == "left of" else (y, x)), near(0.18, 0.02)))
    return tuple(ends)


# ---- in words ------------------------------------------------------------------------------------------------------


def _a(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _name(thing: Thing, with_size: bool) -> str:
    return " ".join(filter(None, [thing.size if with_size else "", thing.colour, thing.shape]))


def caption(scene: Scene, rng: Generator | None = None) -> str:
    """The scene in words: the plain phrasing, or with `rng` one of several, which may leave out size and pattern."""
    with_size = rng is not None and rng.random() < 0.6
    with_pattern = rng is None or rng.random() < 0.8
    names = [_name(thing, with_size) for thing in scene.things]
    relation = scene.relation
    if rng is not None and relation == "left of" and rng.random() < 0.5:
        relation = "to the left of"
    ground = " ".join(filter(None, [scene.pattern if with_pattern else "", scene.ground]))
    subject = f" {relation} ".join(_a(name) for name in names)
    phrasing = 0 if rng is None or rng.random() < 0.5 else int(rng.integers(1, 4))
    return (
        f"{subject} on {_a(ground)} background",
        f"{subject}, {ground} background",
        f"{_a(ground)} background with {subject}",
        f"a picture of {subject} on {_a(ground)} background",
    )[phrasing]


# ---- in pixels -----------------------------------------------------------------------------------------------------


def draw(
    scene: Scene,
    size: tuple[int, int] = (128, 128),
    crop: tuple[int, int] = (0, 0),
    original: tuple[int, int] | None = None,
    part: tuple[int, int] | None = None,
    density: int = 1,
) -> Pixels:
    """The scene composed for a window of `size` (height, width), seen through a window moved by `crop` (top, left).

    A smaller `original` size is drawn first and enlarged, which blurs it. `part` draws only that many (height, width)
    pixels of the window. The image has `density` times as many pixels along each side: it is the same, but finer. The
    ground is infinite.
    """
    shown = part or size
    scale = 1.0 if original is None else min(1.0, original[0] / size[0], original[1] / size[1])
    height, width = (max(8, round(side * scale * density)) for side in shown)
    y = (np.arange(height)[:, None] + 0.5) * shown[0] / height + crop[0]
    x = (np.arange(width)[None, :] + 0.5) * shown[1] / width + crop[1]
    pixels = _render(scene, x, y, size, pixel=shown[0] / height)
    whole = shown[1] * density, shown[0] * density
    if (width, height) == whole:
        return pixels
    return np.asarray(to_image(pixels).resize(whole, Image.Resampling.BICUBIC), np.float32) / 255


def to_image(pixels: Pixels) -> Image.Image:
    """An image in 8 bits."""
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


def _render(scene: Scene, x: Grid, y: Grid, size: tuple[int, int], pixel: float) -> Pixels:
    flaws = np.random.default_rng(scene.seed)
    unit = min(size)
    pixels = _ground(scene, x, y)
    for thing in reversed(scene.things):
        u, v = (x - thing.x * size[1]) / (thing.radius * unit), (y - thing.y * size[0]) / (thing.radius * unit)
        stretch = 1 + scene.flaw * _wobble(u, v, flaws) if scene.flaw else 1.0
        distance = shape_distance(thing.shape, u * stretch, v * stretch) * thing.radius * unit
        cover = np.clip(0.5 - distance / pixel, 0, 1)[..., None]  # the fraction of each pixel that the shape covers
        pixels = pixels * (1 - cover) + _rgb(thing.colour) * cover
    if scene.flaw:
        pixels = pixels + 0.35 * scene.flaw * _blotches(x, y, flaws)[..., None]
    return np.clip(pixels, 0, 1).astype(np.float32)


def _rgb(colour: str) -> NDArray[np.float64]:
    return np.array(COLOURS[colour]) / 255


def shade(colour: str) -> NDArray[np.float64]:
    """The second tone of a patterned ground: a quarter of the way to grey."""
    return 0.75 * _rgb(colour) + 0.125


def _ground(scene: Scene, x: Grid, y: Grid) -> Pixels:
    if scene.pattern == "striped":
        second = (x + 0 * y) % 32 >= 16
    elif scene.pattern == "checkered":
        second = (x % 32 >= 16) != (y % 32 >= 16)
    elif scene.pattern == "dotted":
        second = (x % 24 - 12) ** 2 + (y % 24 - 12) ** 2 < 36
    else:
        second = np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
    return np.where(second[..., None], shade(scene.ground), _rgb(scene.ground))


def shape_distance(shape: str, u: Grid, v: Grid) -> Grid:
    """The distance of a point from a shape of radius 1 around the origin, negative inside; v points down."""
    if shape == "circle":
        return np.hypot(u, v) - 0.95
    if shape == "ring":
        return np.abs(np.hypot(u, v) - 0.72) - 0.26
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.85
    if shape == "cross":
        a, b = np.abs(u), np.abs(v)
        return np.minimum(np.maximum(a - 1, b - 0.32), np.maximum(a - 0.32, b - 1))
    if shape == "triangle":
        down, slope = v - 0.2, np.sqrt(3) / 2
        return np.maximum(down - 0.55, slope * np.abs(u) - down / 2 - 0.55)
    if shape == HEART:
        return _heart_distance(np.abs(u), v)
    assert shape == "star", shape
    return _star_distance(u, v)


def _heart_distance(a: Grid, v: Grid) -> Grid:
    """A square that stands on its tip, with half circles on its upper sides; a is the absolute value of u."""
    size = 1.75  # the square's diagonal
    x, y = a / size, (0.93 - v) / size
    arc = np.hypot(x - 0.25, y - 0.75) - np.sqrt(2) / 4
    along = np.maximum(x + y, 0) / 2
    side = np.minimum(np.hypot(x, y - 1), np.hypot(x - along, y - along)) * np.sign(x - y)
    return np.where(x + y > 1, arc, side) * size


def _star_distance(u: Grid, v: Grid) -> Grid:
    """Five points: fold the plane onto one half of a point, then the distance to the line along its side."""
    tip, dent, turn = 1.08, 0.45, np.pi / 5
    radius, angle = np.hypot(u, v), np.abs((np.arctan2(u, -v) + turn) % (2 * turn) - turn)
    side = np.array([dent * np.cos(turn) - tip, dent * np.sin(turn)])
    normal = np.array([side[1], -side[0]]) / np.hypot(*side)
    return (radius * np.cos(angle) - tip) * normal[0] + radius * np.sin(angle) * normal[1]


def _wobble(u: Grid, v: Grid, flaws: Generator) -> Grid:
    angle = np.arctan2(v, u)
    waves = [0.08 * np.sin(k * angle + flaws.uniform(0, 2 * np.pi)) for k in (3, 5, 8)]
    return np.sum(waves, axis=0)


def _blotches(x: Grid, y: Grid, flaws: Generator) -> Grid:
    waves = [np.sin(a * x + b * y + flaws.uniform(0, 2 * np.pi)) for a, b in flaws.uniform(-0.2, 0.2, (4, 2))]
    return np.mean(waves, axis=0)
