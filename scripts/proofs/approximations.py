"""Proof: what the approximations that can be asked for cost in quality, on the miniature.

Each draws the same prompts from the same noise as the exact pipeline; the judge marks the images, and their PSNR says
how near they are. (The gain in time is a matter of full-size models: docs/benchmarks.)

    make proof-approximations
    python scripts/proofs/approximations.py fp8 --prompts 30    # only rows with these words, of fewer prompts
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from common import banner, psnr, right

import sdxl
from sdxl.miniature.exam import make_scenes, paint
from sdxl.miniature.scenes import Pixels
from sdxl.runtime.int8 import can_quantize

INTERVALS = ((0.0, 5.0), (0.3, 5.0), (0.3, 2.0), (1.0, 100.0))


def load(**options: Any) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained("miniature", **{"dtype": "float32", "device": "cpu", **options})


def main() -> None:
    parser = argparse.ArgumentParser(description="What approximations cost in quality.")
    parser.add_argument("words", nargs="*", help="only the rows whose names have one of them")
    parser.add_argument("--prompts", type=int, default=150, help="of one thing, and as many of two")
    options = parser.parse_args()
    count = options.prompts
    banner(f"{count} prompts each, 25 Euler steps, PSNR (median) against the exact images")
    scenes = make_scenes(count, 41, things=1) + make_scenes(count, 43, things=2)
    plain = load()
    exact = paint(plain, scenes)

    def is_wanted(name: str) -> bool:
        return not options.words or any(word in name for word in options.words)

    def show(name: str, **more: Any) -> None:
        """A row, of a pipeline that is loaded with these arguments."""
        if is_wanted(name):
            report(name, paint(load(**more), scenes))

    def report(name: str, images: list[Pixels]) -> None:
        one, two = right(images[:count], scenes[:count]), right(images[count:], scenes[count:])
        near = np.median([psnr(a, b) for a, b in zip(images, exact, strict=True)])
        print(f"{name:36} one thing {one:5.1f} %, two {two:5.1f} %, {near:5.1f} dB", flush=True)

    report("exact, float32", exact)
    for dtype in ("bfloat16", "float16"):
        show(f"weights in {dtype}", dtype=dtype)
    if can_quantize(plain.device):
        show("int8 transformer blocks", int8=True)
    show("fp8 transformer blocks", fp8=True)
    show("fp8, the rest in bfloat16", fp8=True, dtype="bfloat16")
    sigmas = plain.plan(sdxl.Request("", steps=25, seed=0)).sigmas[:-1]
    for low, high in INTERVALS:
        interval: dict[str, Any] = {"guidance_interval": (low, high)}
        share = np.mean([low <= sigma <= high for sigma in sigmas])
        name = f"guidance in {low} to {high}, {share:.0%} of steps"
        if is_wanted(name):
            report(name, paint(plain, scenes, **interval))


if __name__ == "__main__":
    main()
