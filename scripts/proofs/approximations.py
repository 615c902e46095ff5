"""Proof: what the approximations that can be asked for cost in quality, on the miniature.

Each draws the same prompts from the same noise as the exact pipeline; the judge marks the images, and their PSNR says
how near they are. (The gain in time is a matter of full-size models: docs/benchmarks.)

    make proof-approximations
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import banner, psnr, right

import sdxl
from sdxl.miniature.exam import make_scenes, paint
from sdxl.miniature.scenes import Pixels
from sdxl.runtime.int8 import can_quantize

INTERVALS = ((0.0, 5.0), (0.3, 5.0), (0.3, 2.0), (1.0, 100.0))


def main() -> None:
    banner("150 prompts each, 25 Euler steps, PSNR (median) against the exact images")
    scenes = make_scenes(150, 41, things=1) + make_scenes(150, 43, things=2)
    plain = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    exact = paint(plain, scenes)

    def show(name: str, images: list[Pixels]) -> None:
        one, two = right(images[:150], scenes[:150]), right(images[150:], scenes[150:])
        near = np.median([psnr(a, b) for a, b in zip(images, exact, strict=True)])
        print(f"{name:36} one thing {one:5.1f} %, two {two:5.1f} %, {near:5.1f} dB", flush=True)

    show("exact, float32", exact)
    for dtype in ("bfloat16", "float16"):
        show(
            f"weights in {dtype}", paint(sdxl.Pipeline.from_pretrained("miniature", dtype=dtype, device="cpu"), scenes)
        )
    if can_quantize(plain.device):
        int8 = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu", int8=True)
        show("int8 transformer blocks", paint(int8, scenes))
    sigmas = plain.plan(sdxl.Request("", steps=25, seed=0)).sigmas[:-1]
    for low, high in INTERVALS:
        more: dict[str, Any] = {"guidance_interval": (low, high)}
        share = np.mean([low <= sigma <= high for sigma in sigmas])
        show(f"guidance in {low} to {high}, {share:.0%} of steps", paint(plain, scenes, **more))


if __name__ == "__main__":
    main()
