"""Proof: the miniature's embedding gives its word the meaning that it was trained on (textual inversion).

make proof-embedding
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from common import banner, claim, equal, finish, paint_prompts, right

import sdxl
from sdxl.miniature.exam import make_scenes, paint
from sdxl.miniature.scenes import Scene, caption, sun_scene
from sdxl.text import with_tokens
from sdxl.weights import TensorFile

FILE = Path("weights/adapters/sun.safetensors")


def with_word(pipe: sdxl.Pipeline) -> sdxl.Pipeline:
    """The same networks; the word sun is the file's vectors."""
    file = TensorFile(FILE)
    stages = [
        with_tokens(stage, {"sun": file.read(key).float()})
        for stage, key in zip(pipe.text, ("clip_l", "clip_g"), strict=True)
    ]
    return sdxl.Pipeline.from_networks(pipe.info, pipe.unet, pipe.vae, stages)


def share(pipe: sdxl.Pipeline, scenes: list[Scene], word: str) -> float:
    """The percentage of images that show their scenes, when the prompts call a yellow circle by a word."""
    prompts = [caption(scene).replace("yellow circle", word) for scene in scenes]
    return right(paint_prompts(pipe, prompts, 25, steps=25), scenes)


def main() -> None:
    banner(f"{FILE}, {FILE.stat().st_size} bytes")
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32")
    adapted = with_word(pipe)
    rng = np.random.default_rng(81)
    suns = [sun_scene(rng, unseen=i >= 25) for i in range(50)]  # on trained grounds, and on others
    print(f"     without the embedding: {share(pipe, suns, 'sun'):.0f} % of 50 suns")
    print(f"     in plain words: {share(pipe, suns, 'yellow circle'):.0f} %", flush=True)
    claim("with it, 25 on grounds that it was trained on", share(adapted, suns[:25], "sun"), 90, unit=" %")
    claim("with it, 25 on other grounds", share(adapted, suns[25:], "sun"), 90, unit=" %")
    others = make_scenes(25, 82, things=1)
    same = equal(paint(adapted, others), paint(pipe, others))
    claim("25 prompts without the word: the same images, bit for bit", same)
    finish()


if __name__ == "__main__":
    main()
