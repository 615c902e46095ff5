"""Proof: the miniature's LoRA draws the shape that it was trained on, its weight is a scale, and it leaves no trace.

make proof-lora
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import banner, claim, equal, finish, right

import sdxl
from sdxl.miniature.exam import make_scenes, mark, paint
from sdxl.miniature.scenes import HEART, SHAPES, Pixels, heart_scene

HEART_FILE = Path("weights/adapters/heart.safetensors")
SHAPES_AND_HEART = (*SHAPES, HEART)


def distance(images: Sequence[Pixels], others: Sequence[Pixels]) -> float:
    """The root mean square difference of images, in levels of 255."""
    return 255 * float(np.mean([np.sqrt(((a - b) ** 2).mean()) for a, b in zip(images, others, strict=True)]))


def prove_hearts(pipe: sdxl.Pipeline) -> None:
    """One heart in each image: 100 prompts of trained combinations, each with a seed of its own."""
    hearts = make_scenes(100, 61, things=1, make=heart_scene)
    without = paint(pipe, hearts)
    made: dict[float, list[Pixels]] = {}
    for weight in (0.0, 0.25, 0.5, 0.75, 1.0):
        pipe.set_loras([(HEART_FILE, weight)])
        made[weight] = paint(pipe, hearts)
    pipe.set_loras([])
    shares = {weight: right(images, hearts, SHAPES_AND_HEART) for weight, images in made.items()}
    for weight, images in made.items():
        ends = distance(images, made[0.0]), distance(images, made[1.0])
        print(
            f"     weight {weight:g}: {shares[weight]:.0f} % right; from weight 0 {ends[0]:.1f}, from 1 {ends[1]:.1f}"
        )
    claim("100 prompts with a heart", shares[1.0], 95, unit=" %")
    claim("weight 0 gives the images without the LoRA, bit for bit", equal(made[0.0], without))
    claim("the same prompts after its removal, bit for bit", equal(paint(pipe, hearts), without))
    whole, half = distance(made[1.0], made[0.0]), made[0.5]
    claim("half weight: nearer to weight 0 than weight 1 is, ratio", whole / distance(half, made[0.0]), 1)
    claim("half weight: nearer to weight 1 than weight 0 is, ratio", whole / distance(half, made[1.0]), 1)
    claim("half weight: right more often than at weight 0, points", shares[0.5] - shares[0.0], 1)
    claim("half weight: right less often than at weight 1, points", shares[1.0] - shares[0.5], 1)


def prove_others(pipe: sdxl.Pipeline) -> None:
    """Combinations that the LoRA has not been trained on, pairs, and all that the miniature could do before."""
    exams = {
        "36 hearts of held-out combinations": (make_scenes(36, 62, 1, unseen=True, make=heart_scene), 90.0),
        "50 pairs with a heart": (make_scenes(50, 63, 2, make=heart_scene), 80.0),
        "50 prompts without a heart": (make_scenes(50, 64, 1), 95.0),
    }
    pipe.set_loras([HEART_FILE])
    for name, (scenes, least) in exams.items():
        claim(name, 100 * mark(pipe, scenes), least, unit=" %")


def main() -> None:
    banner(f"{HEART_FILE}, {HEART_FILE.stat().st_size / 1e6:.2f} MB")
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32")
    print("     images of 25 Euler steps; distances are root mean squares in levels of 255")
    prove_hearts(pipe)
    prove_others(pipe)
    finish()


if __name__ == "__main__":
    main()
