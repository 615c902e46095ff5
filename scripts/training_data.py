"""What the miniature is trained on: images of scenes, what the models are conditioned on, and their latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from training_run import Batch, Plan, Run

from sdxl.miniature.scenes import BUCKETS, MOST_CROP, Pixels, Scene, caption, draw, random_scene
from sdxl.models.vae import VAE
from sdxl.text.tokenizer import Tokenizer
from sdxl.training.losses import offset_noise, stratified_timesteps

TRAIN_STEPS = 1000
DROPPED = 0.1  # the share of captions that are left out, for guidance


@dataclass(frozen=True)
class World:
    """What there is to see: how many things a scene has (None: one or two), and the side of a square picture."""

    things: int | None = None
    side: int = 128

    @property
    def buckets(self) -> tuple[tuple[int, int], ...]:
        """The sizes (height, width) of its pictures."""
        return tuple((height * self.side // 128, width * self.side // 128) for height, width in BUCKETS)

    def example(self, rng: Generator, bucket: tuple[int, int], flawed: bool) -> Example:
        """A scene; one in five is cropped, four in ten were drawn smaller and enlarged, or larger and reduced."""
        scene = random_scene(rng, self.things, flawed=flawed and rng.random() < 0.8)
        most = MOST_CROP * self.side // 128
        top, left = (int(n) for n in rng.integers(0, most + 1, 2)) if rng.random() < 0.2 else (0, 0)
        scale = 1.0
        if rng.random() < 0.4:
            scale = float(rng.uniform(0.2, 1.0) if rng.random() < 0.7 else rng.uniform(1.0, 2.0))
        return Example(scene, bucket, (top, left), (round(bucket[0] * scale), round(bucket[1] * scale)))


@dataclass(frozen=True)
class Example:
    """An image with everything that the models are conditioned on."""

    scene: Scene
    size: tuple[int, int]
    crop: tuple[int, int]
    original: tuple[int, int]
    hint: np.ndarray | None = None  # an 8-bit image (H, W, C) that steers
    words: str | None = None  # the caption, where it is not the scene's
    density: int = 1  # how many times finer than at the miniature's size the scene is drawn

    def pixels(self) -> Pixels:
        height, width = (side // self.density for side in self.size)
        return draw(self.scene, (height, width), self.crop, self.original, density=self.density)

    def sizes(self, refiner: bool) -> tuple[float, ...]:
        """The numbers of the micro-conditioning, in SDXL's order."""
        last = (self.scene.aesthetic_score,) if refiner else self.size
        return (*self.original, *self.crop, *last)


def to_tensor(pictures: list[Pixels]) -> Tensor:
    """Pictures (H, W, 3) in 0..1 to (B, 3, H, W) in -1..1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous() * 2 - 1


@dataclass(frozen=True)
class Crops(Dataset[Batch]):
    """What the autoencoder trains on: crops of scenes, small ones first, since what it has to learn is local."""

    run: Run
    plan: Plan
    world: World

    def __len__(self) -> int:
        return self.plan.updates

    def __getitem__(self, step: int) -> Batch:
        """Crops (B, 3, side, side) in -1..1 and the noise of their posterior (B, 4, side/8, side/8)."""
        rng = self.run.numpy(1, step)
        large = step > 0.83 * self.plan.updates
        side, batch = (64, self.plan.batch // 2) if large else (32, self.plan.batch)
        whole = self.world.side
        crops = []
        for _ in range(batch):
            example = self.world.example(rng, (whole, whole), flawed=bool(rng.random() < 0.1))
            top, left = (int(n) for n in rng.integers(0, whole - side + 1, 2))
            crops.append(draw(example.scene, (whole, whole), (top, left), example.original, (side, side)))
        noise = torch.randn(batch, 4, side // 8, side // 8, generator=self.run.torch(2, step))
        return to_tensor(crops), noise


@dataclass(frozen=True)
class Pictures(Dataset[Tensor]):
    """The pictures of examples, (3, H, W) in -1..1 each."""

    examples: list[Example]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Tensor:
        return to_tensor([self.examples[index].pixels()])[0]


@dataclass(frozen=True)
class Latents:
    """The stored training pictures of one bucket, and what the models are conditioned on."""

    z: Tensor  # (N, 4, h, w)
    captions: list[str]
    sizes: Tensor  # (N, 6), for the refiner (N, 5)
    hints: Tensor | None = None  # (N, C, H, W), 8-bit images that steer


@torch.no_grad()
def store_latents(run: Run, vae: VAE, count: int, refiner: bool, world: World) -> list[Latents]:
    """Draw and encode the pictures once: half of them square, the rest in the other buckets."""
    path = run.work / f"latents_{'refiner' if refiner else 'base'}.pt"
    if path.exists():
        return [Latents(*entry) for entry in torch.load(path)]
    stored = []
    for index, bucket in enumerate(world.buckets):
        rng, noise = run.numpy(4 + refiner, index), run.torch(6 + refiner, index)
        number = count // 2 if index == 0 else count // 8
        examples = [world.example(rng, bucket, refiner) for _ in range(number)]
        z = []
        for x in DataLoader(Pictures(examples), batch_size=64, num_workers=run.workers):
            draws = torch.randn(len(x), 4, bucket[0] // 8, bucket[1] // 8, generator=noise)
            z.append(vae.encode(x.to(run.device), draws.to(run.device)))
        captions = [example.words or caption(example.scene, rng) for example in examples]
        sizes = torch.tensor([example.sizes(refiner) for example in examples])
        hints = [torch.from_numpy(example.hint).movedim(-1, 0) for example in examples if example.hint is not None]
        stored.append(Latents(torch.cat(z).cpu(), captions, sizes, torch.stack(hints) if hints else None))
        print(f"stored {number} pictures of {bucket[1]} x {bucket[0]}", flush=True)
    torch.save([(entry.z, entry.captions, entry.sizes, entry.hints) for entry in stored], path)
    return stored


class Noised(Dataset[Batch]):
    """What a UNet trains on: batches of stored latents of one bucket, each with noise and a timestep of its own."""

    def __init__(
        self, run: Run, plan: Plan, stored: list[Latents], tokenizers: Sequence[Tokenizer], timesteps: int, place: int
    ) -> None:
        self.run, self.plan, self.stored, self.timesteps, self.place = run, plan, stored, timesteps, place
        self.ids = [torch.tensor([tokenizer(each.captions) for tokenizer in tokenizers]) for each in stored]

    def __len__(self) -> int:
        return self.plan.updates

    def __getitem__(self, step: int) -> Batch:
        """z, noise (B, 4, h, w), t (B,), ids of each tokenizer (T, B, 77), sizes (B, N), and kept (B,): 1 where the
        caption is given, 0 where it is dropped; behind them the images that steer, (B, C, H, W) in 0..1, if there are.
        """
        rng, generator = self.run.numpy(self.place, step), self.run.torch(self.place + 1, step)
        counts = np.array([len(latents.z) for latents in self.stored])
        bucket = int(rng.choice(len(counts), p=counts / counts.sum()))
        latents, count = self.stored[bucket], self.plan.batch
        chosen = rng.integers(0, len(latents.z), count)
        kept = torch.tensor(rng.random(count) >= DROPPED, dtype=torch.float32)
        z = latents.z[chosen]
        noise = torch.randn(z.shape, generator=generator)
        if self.timesteps == TRAIN_STEPS:  # the refiner begins where the overall brightness is settled
            noise = offset_noise(noise, 0.05, generator)
        t = stratified_timesteps(count, 0, self.timesteps, generator)
        steering = [] if latents.hints is None else [latents.hints[chosen] / 255]
        return z, noise, t, self.ids[bucket][:, chosen], latents.sizes[chosen], kept, *steering
