"""Scenes anywhere in the window, their edges, and how much an image agrees with them in place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sdxl.miniature.edges import edges, moved_scene
from sdxl.miniature.judge import agrees, look, overlap
from sdxl.miniature.scenes import COLOURS, Scene, Thing, draw, random_scene

SCENES = [moved_scene(np.random.default_rng(seed)) for seed in range(60)]


def test_moved_scenes_are_whole_and_right() -> None:
    assert all(thing.x - thing.radius > 0 and thing.x + thing.radius < 1 for each in SCENES for thing in each.things)
    assert all(thing.y - thing.radius > 0 and thing.y + thing.radius < 1 for each in SCENES for thing in each.things)
    assert np.mean([agrees(look(draw(scene)), scene) for scene in SCENES]) > 0.95


def test_moved_scenes_are_spread_wider_than_others() -> None:
    rng = np.random.default_rng(1)
    moved = [moved_scene(rng, things=1).things[0] for _ in range(100)]
    plain = [random_scene(rng, things=1).things[0] for _ in range(100)]
    assert np.std([thing.x for thing in moved]) > 2 * np.std([thing.x for thing in plain])
    assert np.std([thing.y for thing in moved]) > 2 * np.std([thing.y for thing in plain])


def test_things_that_belong_together_move_together() -> None:
    scene = next(scene for scene in SCENES if scene.relation == "inside")
    inner, outer = scene.things
    assert abs(inner.x - outer.x) < 0.03


def test_edges_are_white_lines_around_the_things() -> None:
    for scene in SCENES[:20]:
        lines = np.asarray(edges(scene))
        assert lines.shape == (128, 128, 3)
        assert set(np.unique(lines)) == {0, 255}
        drawn = draw(replace(scene, pattern=""))
        flat = np.ptp(np.stack([np.roll(drawn, (y, x), (0, 1)) for y in (-2, 0, 2) for x in (-2, 0, 2)]), 0).max(2) == 0
        assert not lines[2:-2, 2:-2][flat[2:-2, 2:-2]].any()


def test_edges_know_no_colours_and_no_ground() -> None:
    for scene in SCENES[:10]:
        colours = [name for name in COLOURS if name != "red"][: len(scene.things)]
        things = tuple(replace(thing, colour=c) for thing, c in zip(scene.things, colours, strict=True))
        other = replace(scene, ground="red", pattern="dotted", things=things)
        assert edges(other) == edges(scene)


def test_edges_move_with_the_crop() -> None:
    scene = SCENES[0]
    assert np.array_equal(
        np.asarray(edges(scene))[20:120, 10:120], np.asarray(edges(scene, crop=(10, 5)))[10:110, 5:115]
    )


@pytest.mark.parametrize("size", [(96, 160), (144, 112)])
def test_edges_have_the_size(size: tuple[int, int]) -> None:
    assert edges(SCENES[0], size).size == size[::-1]


def test_overlap() -> None:
    for scene in SCENES[:20]:
        assert overlap(draw(scene), scene) == 1
    square = Scene("blue", (Thing("red", "square", x=0.5, y=0.5, radius=0.25),))
    moved = replace(square, things=(replace(square.things[0], x=0.625),))
    side, shift = 0.5 * 0.85, 0.125
    assert overlap(draw(moved), square) == pytest.approx((side - shift) / (side + shift), abs=0.03)
    assert overlap(draw(replace(square, things=(replace(square.things[0], colour="green"),))), square) == 0


def test_overlap_is_that_of_the_worst_thing() -> None:
    scene = Scene("blue", (Thing("red", "square", x=0.25, radius=0.2), Thing("white", "square", x=0.75, radius=0.2)))
    without = replace(scene, things=scene.things[:1])
    assert overlap(draw(without), scene) == 0
