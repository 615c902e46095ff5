"""Proof: the miniature draws what the prompt says, and SDXL's conditioning does what the paper says.

make proof-miniature
make proof-miniature ARGS=FOLDER      # another training run; FOLDER holds base/ and refiner/
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from common import banner, claim, equal, finish, psnr

import sdxl
from sdxl.miniature.exam import make_scenes, mark, paint, views
from sdxl.miniature.judge import agrees, look
from sdxl.miniature.scenes import BUCKETS, Pixels, Scene, caption, draw, random_scene


def prove_judge() -> None:
    rng = np.random.default_rng(11)
    scenes = [random_scene(rng) for _ in range(1000)]
    seen = [look(draw(scene, BUCKETS[i % len(BUCKETS)])) for i, scene in enumerate(scenes)]
    claim("judge, drawn scenes right", 100 * np.mean(list(map(agrees, seen, scenes))), 99, unit=" %")
    others = [random_scene(rng, things=len(scene.things)) for scene in scenes]
    claim("judge, wrong captions refused", 100 - 100 * np.mean(list(map(agrees, seen, others))), 95, unit=" %")


def prove_autoencoder(pipe: sdxl.Pipeline) -> None:
    rng, values = np.random.default_rng(12), []
    for i in range(200):
        pixels = draw(random_scene(rng, unseen=True), BUCKETS[i % len(BUCKETS)])
        back = pipe.decode(pipe.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None]))
        values.append(psnr(back[0].permute(1, 2, 0).numpy(), pixels))
    claim("autoencoder, held-out scenes, mean PSNR", float(np.mean(values)), 32, unit=" dB")


def prove_prompts(pipe: sdxl.Pipeline) -> list[Scene]:
    seen, unseen = make_scenes(300, 1, things=1), make_scenes(200, 2, things=1, unseen=True)
    pairs = make_scenes(200, 3, things=2)
    began = time.perf_counter()
    accuracy = 100 * mark(pipe, seen)
    claim("300 held-in prompts, euler, 25 steps", accuracy, 98, unit=" %")
    print(f"     {(time.perf_counter() - began) / 300:.3f} s per picture, batches of 25")
    claim("200 held-out prompts", 100 * mark(pipe, unseen), 95, unit=" %")
    claim("200 two-object prompts", 100 * mark(pipe, pairs), 90, unit=" %")
    for relation in ("left of", "above", "inside"):
        some = [scene for scene in pairs if scene.relation == relation]
        print(f"     {relation}: {100 * mark(pipe, some):.1f} % of {len(some)}")
    for sampler in ("ddim", "heun", "dpmpp_2m"):
        claim(f"300 held-in prompts, {sampler}", 100 * mark(pipe, seen, sampler=sampler), accuracy - 3, unit=" %")
    return seen


def _centre(pipe: sdxl.Pipeline, scenes: Sequence[Scene], crop: tuple[int, int]) -> np.ndarray:
    """The centre (y, x) of the largest thing in the picture of each scene; NaN where there is none."""
    seen = views(pipe, scenes, crop_top_left=crop)
    return np.array([(v.things[0].y, v.things[0].x) if v.things else (np.nan, np.nan) for v in seen])


def prove_conditioning(pipe: sdxl.Pipeline, scenes: Sequence[Scene]) -> None:
    some = [scene for scene in scenes if not scene.pattern][:40]
    still = _centre(pipe, some, (0, 0))
    for crop in ((16, 0), (32, 0), (0, 16), (0, 32), (32, 32)):
        moved = np.nanmean(still - _centre(pipe, some, crop), axis=0)
        print(f"     crop {crop}: the thing moves up {moved[0]:.1f}, left {moved[1]:.1f} pixels")
        for axis, name in enumerate(("up", "left")):
            if crop[axis]:
                claim(f"crop_top_left {crop} moves {name}, pixels", float(moved[axis]), crop[axis] / 2)
    energy = []
    for side in (128, 96, 64, 32):
        pictures = paint(pipe, some, original_size=(side, side))
        energy.append(float(np.mean([_high_frequency(pixels) for pixels in pictures])))
        print(f"     original_size {side}: high-frequency energy {energy[-1]:.5f}")
    for larger, smaller, side in zip(energy, energy[1:], (96, 64, 32), strict=False):
        claim(f"original_size {side} lowers the energy, ratio", larger / smaller, 1.0)
    square = 100 * mark(pipe, scenes[:100])
    print(f"     128 x 128: {square:.1f} % of 100")
    for height, width in BUCKETS[1:]:
        claim(f"{width} x {height}", 100 * mark(pipe, scenes[:100], height=height, width=width), square - 5, unit=" %")


def _high_frequency(pixels: Pixels) -> float:
    """The mean power above a quarter of the sampling frequency, of the brightness."""
    spectrum = np.abs(np.fft.fft2(pixels.mean(axis=2))) ** 2 / pixels[..., 0].size
    fy, fx = np.meshgrid(*(np.fft.fftfreq(side) for side in pixels.shape[:2]), indexing="ij")
    return float(spectrum[np.hypot(fy, fx) > 0.25].mean())


def prove_diffusers(pipe: sdxl.Pipeline, folder: Path, scenes: Sequence[Scene]) -> None:
    from diffusers import StableDiffusionXLPipeline

    reference = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    reference.set_progress_bar_config(disable=True)
    values = []
    for i, scene in enumerate(scenes[:8]):
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(i))
        ours = pipe(caption(scene), latents=noise, steps=25, output="tensor", progress=False).images
        theirs = reference(
            caption(scene),
            latents=noise,
            num_inference_steps=25,
            guidance_scale=5.0,
            height=128,
            width=128,
            output_type="np",
        ).images
        values.append(psnr(ours[0].permute(1, 2, 0).numpy(), theirs[0]))
    claim("same picture as diffusers, lowest PSNR of 8", min(values), 50, unit=" dB")


def prove_round_trip(pipe: sdxl.Pipeline, folder: Path, scenes: Sequence[Scene]) -> None:
    with tempfile.TemporaryDirectory() as name:
        single, again = Path(name) / "miniature.safetensors", Path(name) / "folder"
        sdxl.convert(folder, single)
        sdxl.convert(single, again)
        pictures = [
            paint(sdxl.Pipeline.from_pretrained(path, dtype="float32"), scenes[:4]) for path in (folder, single, again)
        ]
    same = all(equal(pictures[0], others) for others in pictures[1:])
    claim("folder, single file and folder again draw bit-identical pictures", same)


def main() -> None:
    model = Path(sys.argv[1]) / "base" if len(sys.argv) > 1 else Path("weights/miniature/base")
    banner(str(model))
    began = time.perf_counter()
    pipe = sdxl.Pipeline.from_pretrained(model, dtype="float32")
    print(f"loaded in {time.perf_counter() - began:.2f} s")
    prove_judge()
    prove_autoencoder(pipe)
    scenes = prove_prompts(pipe)
    prove_conditioning(pipe, scenes)
    prove_diffusers(pipe, model, scenes)
    prove_round_trip(pipe, model, scenes)
    finish()


if __name__ == "__main__":
    main()
