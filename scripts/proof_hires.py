"""Proof: hires fix with the miniature, 128 to 256 pixels, judged from the pixels: the images show what their captions
say as often as at 128, and are sharper than the same images enlarged plainly. Also draws docs/pictures/hires.png.

Two measures of sharpness: `edge`, the steepest gradient of the grey image (its 99th percentile, in 1 of 0..1 per
pixel), and `fine`, the share of its power at frequencies that an image of 128 pixels cannot hold. An image that is
enlarged with Lanczos has next to none of that.

    make proof-hires
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import sdxl
from sdxl.images import grid
from sdxl.miniature.exam import make_scenes, paint
from sdxl.miniature.judge import agrees, look
from sdxl.miniature.scenes import Pixels, Scene, caption

SMALL, LARGE = 128, 256
SETTINGS = (("latent", 0.6), ("latent_bicubic", 0.6), ("latent_nearest_exact", 0.6), ("lanczos", 0.5))
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
    torch.manual_seed(0)
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    scenes = make_scenes(72, 11, things=1) + make_scenes(24, 12, things=2)
    began = time.perf_counter()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(scenes)} captions, 25 steps, seeds 0 on")
    small = paint(pipe, scenes, batch=len(scenes) // 4)
    plain = [enlarge(each) for each in small]
    at_least = right(small, scenes)
    print(f"{f'{SMALL} x {SMALL}':34} {at_least:3} of {len(scenes)} right")
    line("enlarged with Lanczos", plain, scenes)
    faults, shown = 0, {}
    for upscaler, strength in SETTINGS:
        hires = sdxl.Hires(LARGE / SMALL, upscaler=upscaler, strength=strength)
        images = paint(pipe, scenes, batch=len(scenes) // 4, hires=hires)
        line(f"hires, {upscaler}, strength {strength}", images, scenes)
        sharper = sum(edge(new) > edge(old) for new, old in zip(images, plain, strict=True))
        finer = sum(fine(new) > fine(old) for new, old in zip(images, plain, strict=True))
        print(f"{'':34} {sharper} have steeper edges, {finer} more of the fine", flush=True)
        good = right(images, scenes) >= at_least and min(sharper, finer) >= 0.9 * len(scenes)
        faults += not good
        shown[f"hires, {upscaler}"] = images
    chosen = [caption(scenes[n]) for n in (0, 1, 72)]
    rows = [[plain[n], shown["hires, latent"][n], shown["hires, lanczos"][n]] for n in (0, 1, 72)]
    labels = ["enlarged with Lanczos", "hires, latent", "hires, lanczos"]
    grid([to_image(each) for row in rows for each in row], x_labels=labels, y_labels=chosen).save(IMAGE, optimize=True)
    print(f"{faults} of {len(SETTINGS)} settings fail, {(time.perf_counter() - began) / 60:.0f} minutes")
    return faults


if __name__ == "__main__":
    sys.exit(main())
