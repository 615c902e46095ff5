"""What the miniature is trained on: pictures of scenes, what the models are told about them, and their latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from training_run import Plan, Run

from sdxl.miniature.scenes import BUCKETS, MOST_CROP, Pixels, Scene, caption, draw, random_scene
from sdxl.vae import VAE


@dataclass(frozen=True)
class Example:
    """A picture with everything that the models are told about it."""

    scene: Scene
    size: tuple[int, int]
    crop: tuple[int, int]
    original: tuple[int, int]

    def pixels(self) -> Pixels:
        return draw(self.scene, self.size, self.crop, self.original)

    def sizes(self, refiner: bool) -> tuple[float, ...]:
        """The numbers of the micro-conditioning, in SDXL's order."""
        last = (self.scene.aesthetic_score,) if refiner else self.size
        return (*self.original, *self.crop, *last)


def random_example(rng: Generator, bucket: tuple[int, int], flawed: bool, things: int | None = None) -> Example:
    """A scene; one in five is cropped, four in ten were drawn smaller and enlarged, or larger and reduced."""
    scene = random_scene(rng, things, flawed=flawed and rng.random() < 0.8)
    crop = tuple(int(n) for n in rng.integers(0, MOST_CROP + 1, 2)) if rng.random() < 0.2 else (0, 0)
    scale = 1.0
    if rng.random() < 0.4:
        scale = float(rng.uniform(0.2, 1.0) if rng.random() < 0.7 else rng.uniform(1.0, 2.0))
    return Example(scene, bucket, crop, (round(bucket[0] * scale), round(bucket[1] * scale)))


def to_tensor(pictures: list[Pixels]) -> Tensor:
    """Pictures (H, W, 3) in 0..1 to (B, 3, H, W) in -1..1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous() * 2 - 1


@dataclass(frozen=True)
class Latents:
    """The stored training pictures of one bucket, and what is told about them."""

    z: Tensor  # (N, 4, h, w)
    captions: list[str]
    sizes: Tensor  # (N, 6), for the refiner (N, 5)


@torch.no_grad()
def store_latents(run: Run, vae: VAE, count: int, refiner: bool, things: int | None = None) -> list[Latents]:
    """Draw and encode the pictures once: half of them square, the rest in the other buckets.

    `things` is how many a scene has (None: one or two).
    """
    path = run.work / f"latents_{'refiner' if refiner else 'base'}.pt"
    if path.exists():
        return [Latents(*entry) for entry in torch.load(path)]
    stored = []
    for index, bucket in enumerate(BUCKETS):
        rng, noise = run.numpy(4 + refiner, index), run.torch(6 + refiner, index)
        number = count // 2 if index == 0 else count // 8
        examples = [random_example(rng, bucket, refiner, things) for _ in range(number)]
        z = []
        for start in range(0, number, 16):
            x = to_tensor([example.pixels() for example in examples[start : start + 16]])
            draws = torch.randn(len(x), 4, bucket[0] // 8, bucket[1] // 8, generator=noise)
            z.append(vae.encode(x.to(run.device), draws.to(run.device)).cpu())
        captions = [caption(example.scene, rng) for example in examples]
        stored.append(Latents(torch.cat(z), captions, torch.tensor([example.sizes(refiner) for example in examples])))
        print(f"stored {number} pictures of {bucket[1]} x {bucket[0]}", flush=True)
    torch.save([(entry.z, entry.captions, entry.sizes) for entry in stored], path)
    return stored


def draw_batch(run: Run, stored: list[Latents], plan: Plan, place: int, step: int) -> tuple[Latents, Generator]:
    """The batch of a step, pictures of one bucket, and the generator for what else the step draws."""
    rng = run.numpy(place, step)
    bucket = stored[int(rng.choice(len(stored), p=[0.5, 0.125, 0.125, 0.125, 0.125]))]
    chosen = rng.integers(0, len(bucket.z), plan.batch)
    return Latents(bucket.z[chosen], [bucket.captions[i] for i in chosen], bucket.sizes[chosen]), rng
