"""Proof: hires fix with the miniature, 128 to 256 pixels, judged from the pixels: the images show what their captions
say, and each is sharper than the same image enlarged plainly.

The miniature was not trained on 256 pixels, and repeats things there, the more so with more strength, as SDXL does. For
it all this is claimed of images of one thing alone, at least as often right as at 128; those of two are counted. With
the LoRA `large`, which was trained on 256 and takes part in both passes, it is claimed of 95 % of both, with more
strength.

Two measures of sharpness: `edge`, the gradient that a thousandth of the pixels of the grey image exceeds (in 1 of 0..1
per pixel), and `fine`, the share of its power at frequencies that an image of 128 pixels cannot hold. An image that is
enlarged with Lanczos has next to none of that. Also writes the image of docs/hires.md.

    make proof-hires
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import banner, claim, finish, right
from PIL import Image

import sdxl
from sdxl.images import grid
from sdxl.miniature.exam import make_scenes, paint
from sdxl.miniature.scenes import Pixels, Scene, caption, to_image

SMALL, LARGE = 128, 256
LORA = Path("weights/adapters/large.safetensors")
COUNTS = {1: 72, 2: 48}  # of captions, by their number of things
GIVEN: dict[str, Any] = {"steps": 24, "guidance_scale": 2.0, "batch": 8}
IMAGE = Path("docs/pictures/hires.png")
LEFT_OUT = "latent_nearest_exact"  # of the image: it looks as lanczos does


@dataclass(frozen=True)
class Case:
    """A second pass, and the numbers of things with which it is claimed to be right."""

    upscaler: str
    strength: float
    claimed: tuple[int, ...]
    least: float | None = None  # percent, right and sharper; None: right as often as at 128, all of them sharper


ALONE = (Case("lanczos", 0.2, (1,)), Case("latent_nearest_exact", 0.3, (1,)), Case("latent", 0.7, ()))
WITH_LORA = (Case("lanczos", 0.3, (1, 2), 95), Case("lanczos", 0.5, (1, 2), 95), Case("latent", 0.7, ()))


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


def is_sharper(new: Pixels, old: Pixels) -> bool:
    """Whether an image has steeper edges than another one and more of the fine."""
    return all(measure(new) > measure(old) for measure in (edge, fine))


def enlarge(pixels: Pixels) -> Pixels:
    """The plain enlargement: Lanczos."""
    return np.asarray(to_image(pixels).resize((LARGE, LARGE), Image.Resampling.LANCZOS)) / 255


def shares(images: Sequence[Pixels], scenes: Sequence[Scene]) -> dict[int, float]:
    """The percentage of images that are entirely right, by their number of things."""
    found = {}
    for things in COUNTS:
        chosen = [i for i, scene in enumerate(scenes) if len(scene.things) == things]
        found[things] = right([images[i] for i in chosen], [scenes[i] for i in chosen])
    return found


def line(name: str, images: Sequence[Pixels], scenes: Sequence[Scene]) -> str:
    """What is measured of the images of scenes."""
    found = shares(images, scenes)
    counts = f"right: {found[1]:.1f} % of {COUNTS[1]} with one thing, {found[2]:.1f} % of {COUNTS[2]} with two"
    if images[0].shape[0] == SMALL:
        return f"     {name:33} {counts}"
    edges, fines = np.mean([edge(each) for each in images]), np.mean([fine(each) for each in images])
    return f"     {name:33} {counts}; edge {edges:.3f}, fine {100 * fines:.2f} %"


def prove(pipe: sdxl.Pipeline, scenes: Sequence[Scene], cases: Sequence[Case]) -> dict[str, list[Pixels]]:
    """Small images, the same enlarged plainly, and those of the cases; returns what is larger."""
    small = paint(pipe, scenes, **GIVEN)
    plain, at_small = [enlarge(each) for each in small], shares(small, scenes)
    print(line(f"{SMALL} x {SMALL}", small, scenes))
    print(line("enlarged with Lanczos", plain, scenes), flush=True)
    made = {"enlarged plainly": plain}
    for case in cases:
        name = f"{case.upscaler}, {case.strength}"
        hires = sdxl.Hires(LARGE / SMALL, upscaler=case.upscaler, strength=case.strength)
        images = made[name] = paint(pipe, scenes, hires=hires, **GIVEN)
        print(line(f"hires, {name}", images, scenes), flush=True)
        found, trios = shares(images, scenes), list(zip(images, plain, scenes, strict=True))
        sharper = {
            things: 100 * float(np.mean([is_sharper(*pair) for *pair, scene in trios if len(scene.things) == things]))
            for things in COUNTS
        }
        print(f"     {'':33} sharper: {sharper[1]:.1f} %, {sharper[2]:.1f} %", flush=True)
        for things in case.claimed:
            claim(f"{name}: right, things: {things}", found[things], case.least or at_small[things], unit=" %")
            claim(f"{name}: sharper by both measures, things: {things}", sharper[things], case.least or 100, unit=" %")
    return made


def main() -> None:
    banner("24 steps of euler, guidance 2, seeds 0 on")
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    scenes = [scene for things, count in COUNTS.items() for scene in make_scenes(count, 10 + things, things)]
    print("     the miniature alone")
    shown = prove(pipe, scenes, ALONE)
    print(f"     with {LORA}")
    pipe.set_loras([LORA])
    made = prove(pipe, scenes, WITH_LORA)
    shown |= {f"{name}, with the LoRA": made[name] for name in list(made)[1:]}
    shown = {name: images for name, images in shown.items() if not name.startswith(LEFT_OUT)}
    rows = (0, COUNTS[1] + 1, COUNTS[1] + 2)
    cells = [to_image(images[n]) for n in rows for images in shown.values()]
    captions = [caption(scenes[n]) for n in rows]
    grid(cells, x_labels=[*shown], y_labels=captions).save(IMAGE, optimize=True)
    finish()


if __name__ == "__main__":
    main()
