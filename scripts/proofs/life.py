"""Proof: a thousand images in one process, and models loaded and dropped again, leave memory as it was.

make proof-life
"""

from __future__ import annotations

import gc
import time

import torch
from common import banner, claim, finish

import sdxl
from sdxl.runtime.device import default_dtype
from sdxl.runtime.memory import trim, used

CPU = torch.device("cpu")
LOOKS, MODELS = (50, 300, 600), 10  # the texts that are remembered fill their 256 places before the second look


def resident() -> int:
    """Bytes that the process holds when nothing is going on."""
    gc.collect()
    trim()
    return used(CPU)


def draw_many(offload: str, images: int = 1000) -> None:
    """Other prompts, seeds, sizes and samplers all the time."""
    pipe = sdxl.Pipeline.from_pretrained("miniature", device="cpu", offload=offload)
    pipe.prepare_for_many()
    began = time.monotonic()
    sizes = {}
    for n in range(images + 1):
        if n in LOOKS or n == images:
            sizes[n] = resident()
        sampler, side = ("euler", "ddim", "dpmpp_2m")[n % 3], (64, 96, 128)[n % 5 % 3]
        pipe(f"image {n}", steps=2, seed=n, sampler=sampler, width=side, height=side, progress=False)
    held = ", ".join(f"{size / 1e6:.1f} MB after {n}" for n, size in sizes.items())
    growth = sizes[images] / sizes[LOOKS[0]] - 1
    print(f"offload {offload}: {held} images of 2 steps ({time.monotonic() - began:.0f} s)", flush=True)
    claim(f"offload {offload}: memory grows", 100 * growth, most=3, unit=" %")


def load_many() -> None:
    """A model is loaded, generates an image, and is dropped."""
    sizes = []
    for n in range(MODELS + 1):
        sdxl.Pipeline.from_pretrained("miniature", device="cpu")("a", steps=1, seed=n, progress=False)
        sizes.append(resident())
    print(f"{MODELS} models loaded and dropped: {', '.join(f'{size / 1e6:.1f}' for size in sizes)} MB", flush=True)
    claim("models loaded and dropped: memory grows", 100 * (sizes[-1] / sizes[0] - 1), most=3, unit=" %")


if __name__ == "__main__":
    banner("the memory of one process", str(default_dtype(CPU)).removeprefix("torch."))
    load_many()
    draw_many("none")
    draw_many("stage", images=200)
    finish()
