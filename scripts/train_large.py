"""Teach the miniature images of 256 pixels with a LoRA: `python scripts/train_large.py`.

The miniature has seen 128 pixels alone, and repeats things in larger images. Rank 16 beside all layers of the UNet is
trained on scenes that are drawn with twice as many pixels along each side, most often at late timesteps, where the
second pass of hires fix works. Others have 128, so that these stay as they are: a fifth in the first stage, half in the
second, where they have all timesteps alike. Unfinished work is kept in --work; the same command goes on where the last
one stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from numpy.random import Generator
from torch import Tensor, nn
from training_data import TRAIN_STEPS, Example, World
from training_miniature import load_miniature
from training_run import Plan, Run, make_parser, train_from

from sdxl.training.lora import attach_lora, save_lora
from sdxl.training.losses import denoising_loss
from sdxl.weights.keymap import UNET

RANK = 16
PLANS = {"large": Plan(1200, 16, 4e-3, warmup=30, decay=0.99), "large-2": Plan(240, 16, 3e-3, warmup=30, decay=0.99)}
SCENES = 4800
DENSITY = 2
LATE = 1.5  # the power of uniform timesteps, of 0 to 1: three in four are below 0.65
METADATA = {
    "modelspec.title": "large",
    "modelspec.description": "the miniature at 256 pixels, for the second pass of hires fix",
}


@dataclass(frozen=True)
class LargeWorld(World):
    """Scenes of twice the side, whole and sharp, as a second pass is conditioned; a fifth have its own side."""

    @property
    def buckets(self) -> tuple[tuple[int, int], ...]:
        return (DENSITY * self.side, DENSITY * self.side), (self.side, self.side)

    def example(self, rng: Generator, bucket: tuple[int, int], flawed: bool) -> Example:
        example = super().example(rng, bucket, flawed)
        if bucket[0] == self.side:
            return example
        return replace(example, crop=(0, 0), original=bucket, density=DENSITY)


def late(t: Tensor) -> Tensor:
    """Timesteps of little noise more often than others, from uniform ones (B,)."""
    return (TRAIN_STEPS * (t / TRAIN_STEPS) ** LATE).long()


def train_large(run: Run, out: Path) -> None:
    """The latents, the layers, the file."""
    torch.manual_seed(run.seed)
    miniature = load_miniature()
    stored = miniature.store(run, SCENES, LargeWorld())
    unet = miniature.unet.to(memory_format=torch.channels_last)
    layers = {UNET: attach_lora(unet, RANK)}

    def loss(
        z: Tensor, noise: Tensor, t: Tensor, ids: Tensor, sizes: Tensor, kept: Tensor, all_late: bool = True
    ) -> Tensor:
        if all_late or 8 * z.shape[-1] > LargeWorld.side:
            t = late(t)
        return denoising_loss(unet, z, noise, t, miniature.table[t], *miniature.encode(ids, sizes, kept))

    def preview() -> None:
        save_lora(run.work / "large.safetensors", miniature.info.config, layers, METADATA)

    factors = nn.ModuleList(factor for layer in layers[UNET].values() for factor in (layer.down, layer.up))
    large, small = stored
    stages = zip(PLANS.items(), ([large, small], [large] + 4 * [small]), (True, False), strict=True)
    for n, ((name, plan), mixed, all_late) in enumerate(stages):  # the second goes on with the first's averaged weights
        data = miniature.noised(run, plan, mixed, place=90 + 2 * n)
        run.train(name, factors.requires_grad_(True), plan, data, partial(loss, all_late=all_late), preview)
    save_lora(out, miniature.info.config, layers, METADATA)


def main() -> None:
    flags = make_parser(__doc__, "weights/training/large", "weights/adapters/large.safetensors").parse_args()
    train_from(flags, lambda run: train_large(run, flags.out))


if __name__ == "__main__":
    main()
