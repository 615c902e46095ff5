"""Proof: the miniature's network that enlarges makes more of an image than Lanczos does, alone and in hires fix.

Drawn scenes that it has not seen are decoded by the miniature's VAE, enlarged, and held against the same scenes drawn
at the larger size. In hires fix the second pass starts from what it makes; the images are judged from the pixels.

    make proof-upscaler
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import banner, claim, finish, psnr, right
from hires import edge, enlarge
from PIL import Image

import sdxl
from sdxl.miniature.exam import make_scenes, paint
from sdxl.miniature.scenes import Pixels, Scene, draw, to_image
from sdxl.pipeline.upscalers import upscale

FILE = Path("weights/adapters/2x-scenes.safetensors")
HIRES = sdxl.Hires(2, upscaler=str(FILE), strength=0.2)
GIVEN: dict[str, Any] = {"steps": 24, "guidance_scale": 2.0, "batch": 8}


def decoded(pipe: sdxl.Pipeline, scene: Scene) -> Image.Image:
    """A drawn scene as the VAE shows it."""
    x = torch.from_numpy(draw(scene)).float().permute(2, 0, 1)[None]
    return to_image(pipe.decode(pipe.encode(x))[0].permute(1, 2, 0).numpy())


def by_network(pipe: sdxl.Pipeline, image: Image.Image) -> Pixels:
    """An image of 128 pixels, by the network alone."""
    plan = pipe.plan(sdxl.Request("", hires=HIRES))
    return np.asarray(upscale(image, (256, 256), plan, pipe.residency.model)) / 255


def main() -> None:
    banner(f"{FILE}, {FILE.stat().st_size / 1e6:.2f} MB")
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    scenes = make_scenes(50, 97, things=1, unseen=True) + make_scenes(50, 98, things=2, unseen=True)
    small = [decoded(pipe, scene) for scene in scenes]
    large = [draw(scene, density=2) for scene in scenes]
    plain = [psnr(enlarge(np.asarray(image) / 255), one) for image, one in zip(small, large, strict=True)]
    own = [psnr(by_network(pipe, image), one) for image, one in zip(small, large, strict=True)]
    print(
        f"     100 drawn scenes at twice the size, Lanczos: {np.mean(plain):.1f} dB, by the network {np.mean(own):.1f}"
    )
    claim("gain over Lanczos, mean", float(np.mean(own) - np.mean(plain)), 2, unit=" dB")
    claim("scenes that gain", sum(a > b for a, b in zip(own, plain, strict=True)), len(scenes))
    scenes = make_scenes(48, 11, 1)
    first = [enlarge(each) for each in paint(pipe, scenes, **GIVEN)]
    made = paint(pipe, scenes, hires=HIRES, **GIVEN)
    claim("hires, strength 0.2: right, one thing", right(made, scenes), 95, unit=" %")
    steeper = 100 * float(np.mean([edge(new) > edge(old) for new, old in zip(made, first, strict=True)]))
    claim("steeper edges than enlarged with Lanczos", steeper, 95, unit=" %")
    finish()


if __name__ == "__main__":
    main()
