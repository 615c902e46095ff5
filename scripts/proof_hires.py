"""Proof: hires fix with the miniature, 128 to 256 pixels, judged from the pixels: the images show what their captions
say at least as often as at 128, and each is sharper than the same image enlarged plainly. Also writes the image of
docs/hires.md.

Two measures of sharpness: `edge`, the steepest gradient of the grey image (its 99th percentile, in 1 of 0..1 per
pixel), and `fine`, the share of its power at frequencies that an image of 128 pixels cannot hold. An image that is
enlarged with Lanczos has next to none of that.

    make proof-hires
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import sdxl
from sdxl.images import grid
from sdxl.miniature.exam import make_scenes, paint
from sdxl.miniature.judge import agrees, look
from sdxl.miniature.scenes import Pixels, Scene, caption

SMALL, LARGE = 128, 256
SETTINGS = {"lanczos": 0.25, "latent_bicubic": 0.25}
TOO_MUCH = 0.6  # the strength from which the miniature repeats things, as SDXL does at such sizes without hires fix
COUNTS = {1: 12, 2: 4}  # of captions, by their number of things
GIVEN: dict[str, Any] = {"steps": 24, "batch": 4}
IMAGE = Path("docs/pictures/hires.png")


def edge(pixels: Pixels) -> float:
    """How steep the steepest edges of an image (H, W, 3) are."""
    down, right = np.gradient(pixels.mean(axis=-1))
    return float(np.percentile(np.hypot(right, down), 99))


def fine(pixels: Pixels) -> float:
    """The share of the power of an image (256, 256, 3) that 128 x 128 pixels cannot hold."""
    power = np.abs(np.fft.fft2(pixels.mean(axis=-1))) ** 2
    power[0, 0] = 0  # its mean
    cycles = np.abs(np.fft.fftfreq(len(power)) * len(power))
    return float(power[np.maximum(cycles[:, None], cycles) > SMALL / 2].sum() / power.sum())


def to_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


def enlarge(pixels: Pixels) -> Pixels:
    """The plain enlargement: Lanczos."""
    return np.asarray(to_image(pixels).resize((LARGE, LARGE), Image.Resampling.LANCZOS)) / 255


def right(images: list[Pixels], scenes: list[Scene]) -> int:
    return sum(agrees(look(pixels), scene) for pixels, scene in zip(images, scenes, strict=True))


def line(name: str, images: list[Pixels], scenes: list[Scene]) -> None:
    edges, shares = np.mean([edge(each) for each in images]), np.mean([fine(each) for each in images])
    print(
        f"{name:34} {right(images, scenes):3} of {len(scenes)} right, edge {edges:.3f}, fine {100 * shares:.3f} %",
        flush=True,
    )


def main() -> int:
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    scenes = [scene for things, count in COUNTS.items() for scene in make_scenes(count, 10 + things, things)]
    began = time.perf_counter()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(scenes)} captions, 24 steps, seeds 0 on")
    small = paint(pipe, scenes, **GIVEN)
    plain, at_least, faults = [enlarge(each) for each in small], right(small, scenes), 0
    print(f"{f'{SMALL} x {SMALL}':34} {at_least:3} of {len(scenes)} right", flush=True)
    line("enlarged with Lanczos", plain, scenes)
    shown = {"enlarged with Lanczos": plain}
    for upscaler, strength in SETTINGS.items():
        hires = sdxl.Hires(LARGE / SMALL, upscaler=upscaler, strength=strength)
        images = shown[f"{upscaler}, {strength}"] = paint(pipe, scenes, hires=hires, **GIVEN)
        line(f"hires, {upscaler}, strength {strength}", images, scenes)
        steeper, finer = (
            sum(measure(new) > measure(old) for new, old in zip(images, plain, strict=True)) for measure in (edge, fine)
        )
        print(f"{'':34} {steeper} have steeper edges, {finer} more of the fine", flush=True)
        faults += right(images, scenes) < at_least or min(steeper, finer) < len(scenes)
    rows = (0, 1, COUNTS[1])
    some = [scenes[n] for n in rows]
    repeated = paint(pipe, some, hires=sdxl.Hires(LARGE / SMALL, strength=TOO_MUCH), **GIVEN)
    print(f"latent, {TOO_MUCH}: {right(repeated, some)} of {len(some)} right: too much for the miniature")
    cells = [to_image(each) for k, n in enumerate(rows) for each in (*(own[n] for own in shown.values()), repeated[k])]
    grid(cells, x_labels=[*shown, f"latent, {TOO_MUCH}"], y_labels=[*map(caption, some)]).save(IMAGE, optimize=True)
    print(f"{faults} of {len(SETTINGS)} settings fail, {(time.perf_counter() - began) / 60:.0f} minutes")
    return faults


if __name__ == "__main__":
    sys.exit(main())
