"""Proof: what the approximations that can be asked for cost in quality, on the miniature.

Each draws the same prompts from the same noise as the exact pipeline; the judge marks the pictures, and their PSNR says
how near they are. (The gain in time is a matter of full-size models: docs/benchmarks.)

    make proof-approximations
    python scripts/proof_approximations.py fp8     # only the rows whose names have one of these words
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from proof_process import banner

import sdxl
from sdxl.miniature.exam import make_scenes, paint
from sdxl.miniature.judge import agrees, look
from sdxl.miniature.scenes import Pixels
from sdxl.runtime.int8 import can_quantize

INTERVALS = ((0.0, 5.0), (0.3, 5.0), (0.3, 2.0), (1.0, 100.0))


def psnr(ours: list[Pixels], exact: list[Pixels]) -> float:
    """Median over the pictures, in dB."""
    errors = [max(float(np.square(a - b).mean()), 1e-12) for a, b in zip(ours, exact, strict=True)]
    return float(np.median(-10 * np.log10(errors)))


def load(**options: Any) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained("miniature", **{"dtype": "float32", "device": "cpu", **options})


def is_wanted(name: str) -> bool:
    return not sys.argv[1:] or any(word in name for word in sys.argv[1:])


def main() -> None:
    banner()
    scenes = make_scenes(150, 41, things=1) + make_scenes(150, 43, things=2)
    plain = load()
    exact = paint(plain, scenes)

    def show(name: str, **options: Any) -> None:
        """A row, of a pipeline that is loaded with these options."""
        if is_wanted(name):
            report(name, paint(load(**options), scenes))

    def report(name: str, pictures: list[Pixels]) -> None:
        right = [agrees(look(pixels), scene) for pixels, scene in zip(pictures, scenes, strict=True)]
        one, two = 100 * np.mean(right[:150]), 100 * np.mean(right[150:])
        print(f"{name:36} one thing {one:5.1f} %, two {two:5.1f} %, {psnr(pictures, exact):5.1f} dB", flush=True)

    print("150 prompts each, 25 Euler steps, PSNR (median) against the exact pictures", flush=True)
    report("exact, float32", exact)
    for dtype in ("bfloat16", "float16"):
        show(f"weights in {dtype}", dtype=dtype)
    if can_quantize(plain.device):
        show("int8 transformer blocks", int8=True)
    show("fp8 transformer blocks", fp8=True)
    show("fp8, the rest in bfloat16", fp8=True, dtype="bfloat16")
    sigmas = plain.plan(sdxl.Request("", steps=25, seed=0)).sigmas[:-1]
    for low, high in INTERVALS:
        more: dict[str, Any] = {"guidance_interval": (low, high)}
        share = np.mean([low <= sigma <= high for sigma in sigmas])
        name = f"guidance in {low} to {high}, {share:.0%} of steps"
        if is_wanted(name):
            report(name, paint(plain, scenes, **more))


if __name__ == "__main__":
    main()
