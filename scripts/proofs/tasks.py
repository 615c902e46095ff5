"""Proof: inpainting, image to image and the refiner do with the miniature what they say, judged from pixels.

make proof-tasks
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from common import banner, claim, finish, psnr, right

import sdxl
from sdxl.miniature.exam import make_changes, make_mask, make_picture, make_scenes, mark, paint
from sdxl.miniature.scenes import Pixels, caption, draw
from sdxl.pipeline.residency import Residency
from sdxl.weights.builtin import folder


def prove_inpainting(pipe: sdxl.Pipeline) -> None:
    changes = make_changes(100, 51)
    old, new = [before for before, _ in changes], [after for _, after in changes]
    pictures, masks = [make_picture(scene) for scene in old], [make_mask(scene) for scene in old]
    claim("the judge sees the old thing before", right([draw(scene) for scene in old], old), 99, unit=" %")
    for sampler in ("euler", "euler_ancestral", "ddim", "dpmpp_2m"):
        made = paint(pipe, new, image=pictures, mask=masks, sampler=sampler)
        claim(f"100 things replaced as the prompt says, {sampler}", right(made, new), 95, unit=" %")
        changed = [
            int((np.abs(result * 255 - np.asarray(picture)).max(axis=2)[np.asarray(mask) == 0] > 1e-3).sum())
            for result, picture, mask in zip(made, pictures, masks, strict=True)
        ]
        claim(f"pixels outside of the masks that changed, {sampler}", sum(changed), most=0)


def prove_image_to_image(pipe: sdxl.Pipeline) -> None:
    old, new = make_scenes(100, 53, things=1), make_scenes(100, 54, things=1)
    pictures, strengths = [make_picture(scene) for scene in old], (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    near, share = [], []
    for strength in strengths:
        made = paint(pipe, new, image=pictures, strength=strength)
        near.append(float(np.mean([psnr(a, draw(scene)) for a, scene in zip(made, old, strict=True)])))
        share.append(right(made, new))
        print(f"     strength {strength}: {near[-1]:.2f} dB to the picture, {share[-1]:.0f} % show the prompt")
    for (a, b), (c, d), strength in zip(pairwise(near), pairwise(share), strengths[1:], strict=True):
        claim(f"strength {strength} is further from the picture, dB", a - b, 0)
        claim(f"strength {strength} is nearer to the prompt, percent points", d - c, 0)
    claim("strength 1 shows the prompt", share[-1], 95, unit=" %")


def prove_refiner(base: sdxl.Pipeline, refiner: sdxl.Pipeline, both: sdxl.Pipeline) -> None:
    scenes = make_scenes(100, 55, things=1)
    clean = [draw(scene) for scene in scenes]
    flawed = [make_picture(replace(scene, flaw=0.5, seed=i)) for i, scene in enumerate(scenes)]

    def error(pictures: list[Pixels]) -> float:
        return float(np.mean([psnr(a, b) for a, b in zip(pictures, clean, strict=True)]))

    before = error([np.asarray(picture, np.float32) / 255 for picture in flawed])
    through = error(paint(refiner, scenes, image=flawed, strength=0.0))
    after = error(paint(refiner, scenes, image=flawed, strength=0.2))
    print(f"     flawed scenes: {before:.2f} dB to the clean ones, {through:.2f} dB through the autoencoder alone")
    claim("the refiner brings them nearer to the clean ones, dB", after - through, 2)
    scores = [
        error(paint(refiner, scenes, image=flawed, strength=0.2, guidance_scale=1.0, aesthetic_score=score))
        for score in (2.0, 4.5, 7.0)
    ]
    print("     aesthetic score 2, 4.5, 7 without guidance: " + ", ".join(f"{score:.2f} dB" for score in scores))
    for lower, higher in pairwise(scores):
        claim("a higher score is nearer, dB", higher - lower, 0)
    seen = make_scenes(100, 56, things=1)
    print(f"     100 prompts, base alone: {100 * mark(base, seen):.0f} % right")
    claim("100 prompts, base and refiner at 0.8", 100 * mark(both, seen), 95, unit=" %")


def prove_diffusers(both: sdxl.Pipeline) -> None:
    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    loaded = {
        name: kind.from_pretrained(folder(name), torch_dtype=torch.float32)
        for name, kind in (
            ("miniature", StableDiffusionXLPipeline),
            ("miniature-refiner", StableDiffusionXLImg2ImgPipeline),
        )
    }
    for reference in loaded.values():
        reference.set_progress_bar_config(disable=True)
    values = []
    for i, scene in enumerate(make_scenes(8, 57, things=1)):
        prompt, generator = caption(scene), torch.Generator().manual_seed(i)
        common = {"num_inference_steps": 25, "guidance_scale": 5.0, "generator": generator}
        latents = loaded["miniature"](prompt, denoising_end=0.8, output_type="latent", **common).images
        last = loaded["miniature-refiner"](prompt, image=latents, denoising_start=0.8, output_type="np", **common)
        ours = both(prompt, seed=i, steps=25, output="tensor", progress=False).images
        assert isinstance(ours, torch.Tensor)
        values.append(psnr(ours[0].permute(1, 2, 0).numpy(), last.images[0]))
    claim("base and refiner draw diffusers' picture, lowest PSNR of 8", min(values), 50, unit=" dB")


def main() -> None:
    banner("weights/miniature")
    base = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    refiner = sdxl.Pipeline.from_pretrained("miniature-refiner", dtype="float32", device="cpu")
    model = replace(base.residency.model, experts=(base.experts[0], refiner.experts[0]))
    both = sdxl.Pipeline(Residency(model))
    prove_inpainting(base)
    prove_image_to_image(base)
    prove_refiner(base, refiner, both)
    prove_diffusers(both)
    finish()


if __name__ == "__main__":
    main()
