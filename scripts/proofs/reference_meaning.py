"""Proof: the miniature's IP-Adapter gives an image the colours of its reference image, and the prompt its shape.

make proof-reference-meaning
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import banner, claim, equal, finish, paint_prompts
from PIL import Image
from train_reference import recolour, without_colours

import sdxl
from sdxl.miniature.edges import move
from sdxl.miniature.exam import make_picture
from sdxl.miniature.judge import View, look
from sdxl.miniature.scenes import COLOURS, SHAPES, Pixels, Scene, caption, random_scene

COLOURS_FILE = Path("weights/adapters/colours.safetensors")
STEPS = 12
BATCH = 20


@dataclass(frozen=True)
class Case:
    """A prompt, the scene that it should give, and the reference image with the scene's colours."""

    prompt: str
    scene: Scene
    image: Image.Image


def make_cases(count: int, seed: int, coloured: bool) -> list[Case]:
    """Scenes of one thing. The prompt names other colours than the reference image has (`coloured`), or none."""
    rng, cases = np.random.default_rng(seed), []
    for _ in range(count):
        scene = replace(random_scene(rng, things=1), pattern="")
        others = [shape for shape in SHAPES if shape != scene.things[0].shape]
        shown = replace(scene, things=(replace(scene.things[0], shape=str(rng.choice(others))),))
        image = make_picture(move(shown, rng))
        prompt = caption(recolour(scene, rng)) if coloured else without_colours(caption(scene))
        cases.append(Case(prompt, scene, image))
    return cases


def paint(pipe: sdxl.Pipeline, cases: Sequence[Case], scale: float | None) -> list[Pixels]:
    """An image of each case; image i has seed i. `scale` None: without the reference."""

    def reference(part: slice) -> dict[str, Any]:
        images = [case.image for case in cases[part]]
        return {"reference": None if scale is None else [sdxl.Reference(COLOURS_FILE, images, scale=scale)]}

    return paint_prompts(pipe, [case.prompt for case in cases], BATCH, reference, steps=STEPS, sampler="euler")


def has_colours(view: View, case: Case) -> bool:
    """Whether an image has the reference's ground and one thing in its colour."""
    (thing,) = case.scene.things
    return view.ground == case.scene.ground and [seen.colour for seen in view.things] == [thing.colour]


def has_shape(view: View, case: Case) -> bool:
    """Whether an image has one thing, of the prompt's shape."""
    return [seen.shape for seen in view.things] == [case.scene.things[0].shape]


def distance(made: Sequence[Pixels], cases: Sequence[Case]) -> float:
    """How far the mean colours of the images' borders are from the references' grounds, in levels of 255."""
    borders = [np.concatenate([each[:8].reshape(-1, 3), each[-8:].reshape(-1, 3)]).mean(0) * 255 for each in made]
    grounds = [np.array(COLOURS[case.scene.ground]) for case in cases]
    return float(np.mean([np.linalg.norm(a - b) for a, b in zip(borders, grounds, strict=True)]))


def shares(pipe: sdxl.Pipeline, cases: Sequence[Case]) -> tuple[float, float]:
    """The percentages of images at scale 1 that have the reference's colours, and the prompt's shape."""
    seen = [look(pixels) for pixels in paint(pipe, cases, 1.0)]
    colours = [has_colours(view, case) for view, case in zip(seen, cases, strict=True)]
    shapes = [has_shape(view, case) for view, case in zip(seen, cases, strict=True)]
    return 100 * float(np.mean(colours)), 100 * float(np.mean(shapes))


def main() -> None:
    size = sum(file.stat().st_size for file in (COLOURS_FILE, COLOURS_FILE.parent / "image_encoder/model.safetensors"))
    banner(f"{COLOURS_FILE} and its image encoder, {size / 1e6:.2f} MB")
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32")
    print(f"     images of {STEPS} Euler steps")
    plain = make_cases(100, 95, coloured=False)
    colours, shapes = shares(pipe, plain)
    claim("100 prompts without colours, scale 1: both colours are the reference's", colours, 90, unit=" %")
    claim("100 prompts without colours, scale 1: the shape is the prompt's", shapes, 90, unit=" %")

    some = plain[:BATCH]
    without = paint(pipe, some, None)
    warnings.filterwarnings("ignore", "reference .* has no effect: its scales are 0")
    made = {scale: paint(pipe, some, scale) for scale in (0.0, 0.3, 0.6)}
    claim("scale 0 gives the images without it, bit for bit", equal(made[0.0], without))
    near = [distance(images, some) for images in made.values()]
    print(f"     {BATCH} of them: levels of 255 from the reference's ground at scale 0, 0.3, 0.6: {np.round(near)}")
    claim("each step of the scale brings the ground nearer, levels", min(near[0] - near[1], near[1] - near[2]), 1)

    others = make_cases(BATCH, 96, coloured=True)
    near = [distance(paint(pipe, others, scale), others) for scale in (0.0, 1.0)]
    colours, shapes = shares(pipe, others)
    print(
        f"     {BATCH} prompts with other colours: both of the reference's in {colours:.0f} %, shape in {shapes:.0f} %"
    )
    claim("prompts with other colours: the ground comes nearer, levels", near[0] - near[1], 30)
    finish()


if __name__ == "__main__":
    main()
