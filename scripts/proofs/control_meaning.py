"""Proof: the miniature's ControlNet puts things where their edges are, and the prompt decides the rest.

make proof-control-meaning
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import banner, claim, equal, finish, paint_prompts, right
from PIL import Image

import sdxl
from sdxl.images import preprocess_image
from sdxl.miniature.edges import edges, moved_scene
from sdxl.miniature.exam import make_picture, make_scenes
from sdxl.miniature.judge import LEAST_OVERLAP, overlap
from sdxl.miniature.scenes import COLOURS, Pixels, Scene, caption, held_out

EDGES = Path("weights/adapters/edges.safetensors")
STEPS = 12
BATCH = 20


def paint(
    pipe: sdxl.Pipeline, scenes: Sequence[Scene], images: Sequence[Image.Image] | None, scale: float = 1.0
) -> list[Pixels]:
    """An image of each scene's caption with its control image; image i has seed i."""

    def control(part: slice) -> dict[str, Any]:
        return {"control": None if images is None else [sdxl.Control(EDGES, list(images[part]), scale=scale)]}

    return paint_prompts(pipe, [caption(scene) for scene in scenes], BATCH, control, steps=STEPS, sampler="euler")


def report(what: str, made: Sequence[Pixels], scenes: Sequence[Scene], least: float) -> None:
    """The claims about the places and the contents of images."""
    overlaps = [overlap(pixels, scene) for pixels, scene in zip(made, scenes, strict=True)]
    print(f"     {what}: overlap {np.mean(overlaps):.3f} in the mean, {np.min(overlaps):.3f} at least")
    claim(
        f"{what}: overlap of at least {LEAST_OVERLAP}",
        100 * float(np.mean(np.array(overlaps) >= LEAST_OVERLAP)),
        least,
        unit=" %",
    )
    claim(f"{what}: ground, colours, shapes and relation of the prompt", right(made, scenes), least, unit=" %")


def recoloured(scene: Scene, seed: int) -> Scene:
    """The scene of one thing in other colours of trained combinations."""
    rng = np.random.default_rng(seed)
    (thing,) = scene.things
    while True:
        ground, colour = (str(name) for name in rng.choice(list(COLOURS), 2, replace=False))
        if scene.ground != ground and thing.colour != colour and not held_out(colour, thing.shape, ground):
            return replace(scene, ground=ground, things=(replace(thing, colour=colour),))


def main() -> None:
    banner(f"{EDGES}, {EDGES.stat().st_size / 1e6:.2f} MB")
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32")
    print(f"     images of {STEPS} Euler steps; overlap: intersection over union of the pixels of a thing's colour")
    ones = make_scenes(100, 91, things=1, make=moved_scene)
    controls = [edges(scene) for scene in ones]
    report("100 scenes of one thing", paint(pipe, ones, controls), ones, 95)
    plain = paint(pipe, ones[:BATCH], None)
    inside = [overlap(pixels, scene) >= LEAST_OVERLAP for pixels, scene in zip(plain, ones[:BATCH], strict=True)]
    print(f"     {BATCH} of them without it: overlap of at least {LEAST_OVERLAP} in {100 * np.mean(inside):.0f} %")
    warnings.filterwarnings("ignore", "control .* has no effect: its scale is 0")
    zero = paint(pipe, ones[:BATCH], controls[:BATCH], scale=0.0)
    claim("scale 0 gives the images without it, bit for bit", equal(zero, plain))

    others = [recoloured(scene, seed) for seed, scene in enumerate(ones[:40])]
    report("40 of these edges with other colours and grounds", paint(pipe, others, controls[:40]), others, 95)
    photos = [make_picture(replace(scene, pattern="")) for scene in ones[:40]]
    found = [preprocess_image(photo, "canny") for photo in photos]
    report("40 with canny of coloured scenes", paint(pipe, others, found), others, 90)
    pairs = make_scenes(40, 92, things=2, make=moved_scene)
    report("40 scenes of two things", paint(pipe, pairs, [edges(scene) for scene in pairs]), pairs, 80)
    finish()


if __name__ == "__main__":
    main()
