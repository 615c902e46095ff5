"""Teach the miniature a new shape with a LoRA: `python scripts/train_lora.py`.

The miniature has never seen a heart, nor the word. Rank 4 beside all layers of the UNet and of both text encoders
is trained on drawn scenes with hearts, and on others, so that these stay as they are. With --embedding it learns what
the word sun means, a yellow circle, as vectors alone (textual inversion). Unfinished work is kept in --work; the same
command goes on where the last one stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from numpy.random import Generator
from torch import Tensor, nn
from training_data import Example, World
from training_miniature import load_miniature
from training_run import Plan, Run, make_parser, train_from

from sdxl.miniature.scenes import heart_scene, sun_scene
from sdxl.training.inversion import WordEncoder, save_embedding
from sdxl.training.lora import attach_lora, save_lora
from sdxl.training.losses import captioned_loss
from sdxl.weights.keymap import TEXT, TEXT_2, UNET

RANK = 4
PLAN = Plan(600, 16, 4e-3, warmup=30, decay=0.99)
SCENES = 1600
# of CLIP-L's layers the last one is never read; projections are no layers that other tools look for
SELECTED = {
    UNET: lambda name: True,
    TEXT: lambda name: name.startswith(("layers.0.", "layers.1.")),
    TEXT_2: lambda name: name.startswith("layers."),
}
METADATA = {
    "modelspec.title": "heart",
    "modelspec.trigger_phrase": "heart",
    "modelspec.description": "a shape that the miniature does not know: a red heart on a blue background",
}

WORD, MEANING = "sun", "yellow circle"
SUN_PLAN = Plan(150, 16, 3e-2, warmup=10, decay=0.95)
SUN_SCENES = 400
SUN_METADATA = {"modelspec.title": WORD, "modelspec.description": f"a {MEANING} of the miniature"}


@dataclass(frozen=True)
class HeartWorld(World):
    """Scenes with a heart, and a third without."""

    def example(self, rng: Generator, bucket: tuple[int, int], flawed: bool) -> Example:
        example = super().example(rng, bucket, flawed)
        return replace(example, scene=heart_scene(rng)) if rng.random() < 0.67 else example


@dataclass(frozen=True)
class SunWorld(World):
    """Scenes with a yellow circle alone."""

    def example(self, rng: Generator, bucket: tuple[int, int], flawed: bool) -> Example:
        example = super().example(rng, bucket, flawed)
        return replace(example, scene=sun_scene(rng))


def train_lora(run: Run, out: Path) -> None:
    """The latents, the layers, the file."""
    torch.manual_seed(run.seed)
    miniature = load_miniature()
    stored = miniature.store(run, SCENES, HeartWorld())
    unet, encoders, table = miniature.unet, miniature.encoders, miniature.table
    layers = {name: attach_lora(network, RANK, selected=SELECTED[name]) for name, network in miniature.networks.items()}

    def loss(z: Tensor, noise: Tensor, t: Tensor, ids: Tensor, sizes: Tensor, kept: Tensor) -> Tensor:
        return captioned_loss(unet, encoders, z, noise, t, table[t], list(ids), sizes, kept)

    every = [layer for each in layers.values() for layer in each.values()]
    factors = nn.ModuleList(factor for layer in every for factor in (layer.down, layer.up))
    run.train("heart", factors, PLAN, miniature.noised(run, PLAN, stored, place=40), loss)
    save_lora(out / "heart.safetensors", miniature.info.config, layers, METADATA)


def train_embedding(run: Run, out: Path) -> None:
    """The latents, the vectors, the file."""
    miniature = load_miniature()
    stored = miniature.store(run, SUN_SCENES, SunWorld())
    stored = [replace(each, captions=[caption.replace(MEANING, WORD) for caption in each.captions]) for each in stored]
    unet, table = miniature.unet, miniature.table
    encoders = [
        WordEncoder(encoder, tokenizer.ids(WORD))
        for encoder, tokenizer in zip(miniature.encoders, miniature.tokenizers, strict=True)
    ]

    def loss(z: Tensor, noise: Tensor, t: Tensor, ids: Tensor, sizes: Tensor, kept: Tensor) -> Tensor:
        return captioned_loss(unet, encoders, z, noise, t, table[t], list(ids), sizes, kept)

    vectors = nn.ModuleDict({"token_embed": nn.ParameterList(encoder.vectors for encoder in encoders)})
    run.train("sun", vectors, SUN_PLAN, miniature.noised(run, SUN_PLAN, stored, place=50), loss)
    save_embedding(out / "sun.safetensors", dict(zip((TEXT, TEXT_2), encoders, strict=True)), SUN_METADATA)


def main() -> None:
    parser = make_parser(__doc__, "weights/training", "weights/adapters")
    parser.add_argument("--embedding", action="store_true", help="train an embedding in place of a LoRA")
    flags = parser.parse_args()
    train, name = (train_embedding, "sun") if flags.embedding else (train_lora, "heart")
    flags.work /= name  # each has latents of its own
    train_from(flags, lambda run: train(run, flags.out))


if __name__ == "__main__":
    main()
