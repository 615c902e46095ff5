"""Proof: a thousand pictures in one process, and models loaded and dropped again, leave memory as it was."""

from __future__ import annotations

import gc
import time

import torch

import sdxl
from sdxl.runtime.memory import trim, used

CPU = torch.device("cpu")
LOOKS, MODELS = (50, 300, 600), 10  # the texts that are remembered fill their 256 places before the second look


def resident() -> int:
    """Bytes that the process holds when nothing is going on."""
    gc.collect()
    trim()
    return used(CPU)


def draw_many(offload: str, pictures: int = 1000) -> None:
    """Other prompts, seeds, sizes and samplers all the time."""
    pipe = sdxl.Pipeline.from_pretrained("miniature", device="cpu", offload=offload)
    pipe.prepare_for_many()
    began = time.monotonic()
    sizes = {}
    for n in range(pictures + 1):
        if n in LOOKS or n == pictures:
            sizes[n] = resident()
        sampler, side = ("euler", "ddim", "dpmpp_2m")[n % 3], (64, 96, 128)[n % 5 % 3]
        pipe(f"picture {n}", steps=2, seed=n, sampler=sampler, width=side, height=side, progress=False)
    held = ", ".join(f"{size / 1e6:.1f} MB after {n}" for n, size in sizes.items())
    growth = sizes[pictures] / sizes[LOOKS[0]] - 1
    print(
        f"offload {offload}: {held} pictures of 2 steps, {growth:+.2%} ({time.monotonic() - began:.0f} s)", flush=True
    )
    assert growth < 0.03


def load_many() -> None:
    """A model is loaded, draws a picture, and is dropped."""
    sizes = []
    for n in range(MODELS + 1):
        sdxl.Pipeline.from_pretrained("miniature", device="cpu")("a", steps=1, seed=n, progress=False)
        sizes.append(resident())
    print(f"{MODELS} models loaded and dropped: {', '.join(f'{size / 1e6:.1f}' for size in sizes)} MB", flush=True)
    assert sizes[-1] < 1.03 * sizes[0]


if __name__ == "__main__":
    load_many()
    draw_many("none")
    draw_many("stage", pictures=200)
