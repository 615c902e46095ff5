"""Proof: hires fix with the miniature, 128 to 256 pixels, judged from the pixels: the images of one thing show what
their captions say at least as often as at 128, and each is sharper than the same image enlarged plainly. Images of two
things are counted too: at a size that it was not trained on the miniature repeats things, the more so with more
strength, as SDXL does. Also writes the image of docs/hires.md.

Two measures of sharpness: `edge`, the gradient that a thousandth of the pixels of the grey image exceeds (in 1 of 0..1
per pixel), and `fine`, the share of its power at frequencies that an image of 128 pixels cannot hold. An image that is
enlarged with Lanczos has next to none of that.

    make proof-hires
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import banner, claim, finish, right
from PIL import Image

import sdxl
from sdxl.images import grid
from sdxl.miniature.exam import make_scenes, paint
from sdxl.miniature.scenes import Pixels, Scene, caption

SMALL, LARGE = 128, 256
SETTINGS = {"lanczos": 0.2, "latent_nearest_exact": 0.3}
TOO_MUCH = 0.7
COUNTS = {1: 72, 2: 24}  # of captions, by their number of things
GIVEN: dict[str, Any] = {"steps": 24, "guidance_scale": 2.0, "batch": 8}
IMAGE = Path("docs/pictures/hires.png")


def edge(pixels: Pixels) -> float:
    """How steep the steepest edges of an image (H, W, 3) are."""
    down, across = np.gradient(pixels.mean(axis=-1))
    return float(np.percentile(np.hypot(across, down), 99.9))


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


def line(name: str, images: Sequence[Pixels], scenes: Sequence[Scene]) -> str:
    """What is measured of the images of scenes, of which those with one thing stand first."""
    ones, twos = COUNTS.values()
    counts = f"right: {right(images[:ones], scenes[:ones]):.0f} % of {ones} with one thing, "
    counts += f"{right(images[ones:], scenes[ones:]):.0f} % of {twos} with two"
    if images[0].shape[0] == SMALL:
        return f"{name:41} {counts}"
    edges, shares = np.mean([edge(each) for each in images]), np.mean([fine(each) for each in images])
    return f"{name:41} {counts}; edge {edges:.3f}, fine {100 * shares:.2f} %"


def main() -> None:
    banner("24 steps of euler, guidance 2, seeds 0 on")
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    scenes = [scene for things, count in COUNTS.items() for scene in make_scenes(count, 10 + things, things)]
    small = paint(pipe, scenes, **GIVEN)
    plain, ones = [enlarge(each) for each in small], COUNTS[1]
    print(line(f"{SMALL} x {SMALL}", small, scenes))
    print(line("enlarged with Lanczos", plain, scenes), flush=True)
    shown = {"enlarged plainly": plain}
    for upscaler, strength in {**SETTINGS, "latent": TOO_MUCH}.items():
        hires = sdxl.Hires(LARGE / SMALL, upscaler=upscaler, strength=strength)
        images = shown[f"{upscaler}, {strength}"] = paint(pipe, scenes, hires=hires, **GIVEN)
        print(line(f"hires, {upscaler}, strength {strength}", images, scenes))
        pairs = list(zip(images, plain, strict=True))
        steeper, finer = (sum(measure(new) > measure(old) for new, old in pairs) for measure in (edge, fine))
        print(f"{'':41} {steeper} of {len(pairs)} have steeper edges, {finer} more of the fine", flush=True)
        if upscaler in SETTINGS:
            least = right(small[:ones], scenes[:ones])
            claim(f"{upscaler}: one thing is right as often", right(images[:ones], scenes[:ones]), least, unit=" %")
            claim(f"{upscaler}: each has steeper edges and more of the fine", min(steeper, finer), len(pairs))
    rows = (0, 1, ones + 2)
    cells = [to_image(images[n]) for n in rows for images in shown.values()]
    captions = [caption(scenes[n]) for n in rows]
    grid(cells, x_labels=[*shown], y_labels=captions).save(IMAGE, optimize=True)
    finish()


if __name__ == "__main__":
    main()
