"""Proof: the miniature's tiny decoder shows what its VAE shows.

make proof-tiny-vae
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import banner, claim, finish, psnr, right
from torch import Tensor

import sdxl
from sdxl.miniature.exam import make_scenes
from sdxl.miniature.scenes import Pixels, Scene, caption, draw

FILE, TWO_STEPS = (Path(f"weights/adapters/{name}.safetensors") for name in ("tiny-decoder", "two-steps"))
FEW: dict[str, Any] = {"steps": 4, "schedule": "trailing", "guidance_scale": 1.0}


def latents(pipe: sdxl.Pipeline, scenes: Sequence[Scene], batch: int = 25) -> list[Tensor]:
    """The latents (1, 4, h, w) of an image of each scene's caption."""
    made: list[Tensor] = []
    for first in range(0, len(scenes), batch):
        prompts = [caption(scene) for scene in scenes[first : first + batch]]
        images = pipe(prompts, seed=first, output="latent", progress=False, **FEW).images
        assert isinstance(images, Tensor)
        made += images.split(1)
    return made


def decode(pipe: sdxl.Pipeline, given: Sequence[Tensor]) -> list[Pixels]:
    """The images (H, W, 3) in 0..1, in 8 bits as they are saved."""
    return [(pipe.decode(z)[0].permute(1, 2, 0).numpy() * 255).round() / 255 for z in given]


def compare(a: Sequence[Pixels], b: Sequence[Pixels]) -> list[float]:
    """PSNR in dB, image by image."""
    return [psnr(one, other) for one, other in zip(a, b, strict=True)]


def main() -> None:
    banner(f"{FILE}, {FILE.stat().st_size / 1e6:.2f} MB")
    pipe, drafts = (sdxl.Pipeline.from_pretrained("miniature", vae=vae, dtype="float32") for vae in (None, FILE))
    pipe.set_loras([TWO_STEPS])
    print("     4 steps of the distilled miniature, the same latents decoded by the VAE and by the tiny decoder")
    for name, things, least in (("one thing", 1, 80), ("two things", 2, 50)):
        scenes = make_scenes(100 if things == 1 else 25, 90 + things, things=things)
        made = latents(pipe, scenes)
        whole, tiny = decode(pipe, made), decode(drafts, made)
        print(f"     {len(scenes)} prompts with {name}, right by the VAE: {right(whole, scenes):.0f} %")
        claim("right by the tiny decoder", right(tiny, scenes), least, unit=" %")
        decibels = compare(whole, tiny)
        claim("PSNR of the tiny decoder against the VAE, mean", float(np.mean(decibels)), 28, unit=" dB")
        print(f"     the least {min(decibels):.1f} dB")
    scenes = make_scenes(25, 93, things=1, unseen=True)
    drawn = [draw(scene) for scene in scenes]
    given = [pipe.encode(torch.from_numpy(each).float().permute(2, 0, 1)[None]) for each in drawn]
    for name, each in (("VAE", pipe), ("tiny decoder", drafts)):
        decibels = compare(drawn, decode(each, given))
        print(f"     25 drawn scenes of held-out combinations, {name}: {np.mean(decibels):.1f} dB")
    finish()


if __name__ == "__main__":
    main()
