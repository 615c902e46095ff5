"""The miniature's world and its judge: drawings match their captions, and the judge sees it."""

from typing import Any

import numpy as np
import pytest

from sdxl.miniature.judge import agrees, look
from sdxl.miniature.scenes import (
    BUCKETS,
    COLOURS,
    HEART,
    SHAPES,
    Scene,
    Thing,
    caption,
    draw,
    heart_scene,
    held_out,
    random_scene,
)


def scenes(count: int, seed: int = 0, **arguments: Any) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng, **arguments) for _ in range(count)]


def test_plain_caption() -> None:
    assert caption(Scene("blue", (Thing("red", "circle"),))) == "a red circle on a blue background"
    pair = (Thing("orange", "ring"), Thing("white", "star"))
    assert caption(Scene("black", pair, "striped", "left of")) == (
        "an orange ring left of a white star on a striped black background"
    )


def test_a_seed_draws_the_same_world() -> None:
    first, second = scenes(20, seed=3, flawed=True), scenes(20, seed=3, flawed=True)
    assert first == second
    assert all(np.array_equal(draw(a), draw(b)) for a, b in zip(first, second, strict=True))
    assert len(set(first)) == 20


def test_held_out_combinations_are_a_sixth_and_balanced() -> None:
    combinations = [(c, s, g) for c in COLOURS for s in SHAPES for g in COLOURS if c != g]
    kept_out = [combination for combination in combinations if held_out(*combination)]
    assert 0.15 < len(kept_out) / len(combinations) < 0.18
    for names, index in ((COLOURS, 0), (SHAPES, 1), (COLOURS, 2)):
        counts = [sum(combination[index] == name for combination in kept_out) for name in names]
        assert max(counts) - min(counts) <= 2


@pytest.mark.parametrize("unseen", [False, True])
def test_scenes_keep_to_their_side_of_the_split(unseen: bool) -> None:
    for scene in scenes(300, unseen=unseen):
        assert all(held_out(thing.colour, thing.shape, scene.ground) == unseen for thing in scene.things)


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_judge_sees_the_drawn_things(count: int) -> None:
    world = scenes(count)
    right = [agrees(look(draw(scene, BUCKETS[i % len(BUCKETS)])), scene) for i, scene in enumerate(world)]
    assert np.mean(right) > 0.99


def test_the_judge_knows_hearts_when_it_is_told_of_them() -> None:
    rng = np.random.default_rng(2)
    hearts = [heart_scene(rng) for _ in range(40)]
    assert all(sum(thing.shape == HEART for thing in scene.things) == 1 for scene in hearts)
    assert all(agrees(look(draw(scene), (*SHAPES, HEART)), scene) for scene in hearts)
    assert not any(agrees(look(draw(scene)), scene) for scene in hearts)
    others = scenes(40, seed=4)
    assert all(agrees(look(draw(scene), (*SHAPES, HEART)), scene) for scene in others)


@pytest.mark.parametrize("unseen", [False, True])
def test_hearts_keep_to_their_side_of_the_split(unseen: bool) -> None:
    rng = np.random.default_rng(3)
    for scene in (heart_scene(rng, unseen=unseen) for _ in range(50)):
        assert all(held_out(thing.colour, thing.shape, scene.ground) == unseen for thing in scene.things)


def test_the_judge_refuses_wrong_captions() -> None:
    """Another scene with the same number of things, and one with a single word changed."""
    rng = np.random.default_rng(1)
    passed = []
    for scene in scenes(80):
        view = look(draw(scene))
        passed.append(agrees(view, random_scene(rng, things=len(scene.things))))
        thing = scene.things[0]
        shape = str(rng.choice([name for name in SHAPES if name != thing.shape]))
        changed = Scene(scene.ground, (Thing(thing.colour, shape), *scene.things[1:]), relation=scene.relation)
        passed.append(agrees(view, changed))
    assert np.mean(passed) < 0.05


def test_the_judge_reads_relations_both_ways() -> None:
    for relation in ("left of", "above"):
        pair = next(scene for scene in scenes(100, things=2) if scene.relation == relation)
        swapped = Scene(pair.ground, pair.things[::-1], pair.pattern, relation)
        view = look(draw(pair))
        assert agrees(view, pair)
        assert not agrees(view, swapped)


def test_a_crop_moves_the_window() -> None:
    scene = Scene("blue", (Thing("red", "star"),))
    centre, moved = look(draw(scene)).things[0], look(draw(scene, crop=(20, 30))).things[0]
    assert moved.y - centre.y == pytest.approx(-20, abs=1)
    assert moved.x - centre.x == pytest.approx(-30, abs=1)


def test_a_part_is_cropped_from_the_window() -> None:
    scene = scenes(1)[0]
    assert np.array_equal(draw(scene)[16:80, 8:72], draw(scene, crop=(16, 8), part=(64, 64)))


def test_a_small_original_size_blurs() -> None:
    scene = Scene("blue", (Thing("red", "star"),))
    energy = [np.square(np.diff(draw(scene, original=(side, side)), axis=1)).sum() for side in (32, 64, 96, 128)]
    assert energy == sorted(energy)
    assert np.array_equal(draw(scene), draw(scene, original=(256, 256)))


@pytest.mark.parametrize("pattern", ["", "striped", "checkered"])
def test_a_finer_image_is_the_same_in_more_pixels(pattern: str) -> None:
    scene = Scene("blue", (Thing("red", "square"),), pattern)
    fine = draw(scene, (112, 144), density=2)
    assert fine.shape == (224, 288, 3)
    coarse = fine.reshape(112, 2, 144, 2, 3).mean(axis=(1, 3))
    differs = np.abs(coarse - draw(scene, (112, 144))).max(axis=2) > 0.02
    assert differs.sum() <= 4  # the corners of the square, of which a pixel's cover is an estimate
    assert agrees(look(fine), scene)
    blurred = draw(scene, original=(64, 64), density=2)
    assert blurred.shape == (256, 256, 3)
    assert np.square(np.diff(blurred, axis=1)).sum() < np.square(np.diff(draw(scene, density=2), axis=1)).sum()


def test_flaws_lower_the_score_and_show() -> None:
    clean = Scene("blue", (Thing("red", "star"),))
    poor = Scene("blue", (Thing("red", "star"),), flaw=1.0, seed=3)
    assert (clean.aesthetic_score, poor.aesthetic_score) == (7.0, 2.0)
    assert np.abs(draw(clean) - draw(poor)).mean() > 0.03
