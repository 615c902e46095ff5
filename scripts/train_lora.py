"""Teach the miniature a new shape with a LoRA: `python scripts/train_lora.py`.

The miniature has never seen a heart, nor the word. Rank 4 beside all layers of the UNet and of both text encoders
is trained on drawn scenes with hearts, and on others, so that these stay as they are. With --embedding it learns what
the word sun means, a yellow circle, as vectors alone (textual inversion). Unfinished work is kept in --work; the same
command goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from numpy.random import Generator
from torch import Tensor, nn
from training_data import TRAIN_STEPS, Example, Noised, World, store_latents
from training_run import Plan, Run

import sdxl
from sdxl.miniature.scenes import heart_scene, sun_scene
from sdxl.sampling.schedule import noise_table
from sdxl.text.tokenizer import Tokenizer
from sdxl.training.inversion import WordEncoder, save_embedding
from sdxl.training.lora import attach_lora, load_network, save_lora
from sdxl.training.losses import captioned_loss
from sdxl.weights.checkpoint import open_checkpoint
from sdxl.weights.hub import on_disk
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
    checkpoint = open_checkpoint(on_disk("miniature"))
    info, vae = checkpoint.info, sdxl.Pipeline.from_pretrained("miniature", dtype="float32").vae
    stored = store_latents(run, vae, SCENES, False, HeartWorld())
    networks = {name: load_network(checkpoint.components[name]).to(run.device) for name in (UNET, TEXT, TEXT_2)}
    layers = {name: attach_lora(network, RANK, selected=SELECTED[name]) for name, network in networks.items()}
    table = torch.tensor(noise_table(info.schedule).sigmas, dtype=torch.float32, device=run.device)

    def loss(z: Tensor, noise: Tensor, t: Tensor, ids: Tensor, sizes: Tensor, kept: Tensor) -> Tensor:
        encoders = [networks[TEXT], networks[TEXT_2]]
        return captioned_loss(networks[UNET], encoders, z, noise, t, table[t], list(ids), sizes, kept)

    every = [layer for each in layers.values() for layer in each.values()]
    factors = nn.ModuleList(factor for layer in every for factor in (layer.down, layer.up))
    tokenizers = [Tokenizer(info.tokenizers[name]) for name in (TEXT, TEXT_2)]
    run.train("heart", factors, PLAN, Noised(run, PLAN, stored, tokenizers, TRAIN_STEPS, place=40), loss)
    save_lora(out, info.config, layers, METADATA)


def train_embedding(run: Run, out: Path) -> None:
    """The latents, the vectors, the file."""
    checkpoint = open_checkpoint(on_disk("miniature"))
    info, vae = checkpoint.info, sdxl.Pipeline.from_pretrained("miniature", dtype="float32").vae
    stored = store_latents(run, vae, SUN_SCENES, False, SunWorld())
    stored = [replace(each, captions=[caption.replace(MEANING, WORD) for caption in each.captions]) for each in stored]
    tokenizers = [Tokenizer(info.tokenizers[name]) for name in (TEXT, TEXT_2)]
    unet = load_network(checkpoint.components[UNET])
    encoders = [
        WordEncoder(load_network(checkpoint.components[name]), tokenizer.ids(WORD))
        for name, tokenizer in zip((TEXT, TEXT_2), tokenizers, strict=True)
    ]
    table = torch.tensor(noise_table(info.schedule).sigmas, dtype=torch.float32)

    def loss(z: Tensor, noise: Tensor, t: Tensor, ids: Tensor, sizes: Tensor, kept: Tensor) -> Tensor:
        return captioned_loss(unet, encoders, z, noise, t, table[t], list(ids), sizes, kept)

    vectors = nn.ModuleDict({"token_embed": nn.ParameterList(encoder.vectors for encoder in encoders)})
    run.train("sun", vectors, SUN_PLAN, Noised(run, SUN_PLAN, stored, tokenizers, TRAIN_STEPS, place=50), loss)
    save_embedding(out, dict(zip((TEXT, TEXT_2), encoders, strict=True)), SUN_METADATA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedding", action="store_true", help="train an embedding in place of a LoRA")
    parser.add_argument("--work", type=Path, help="where unfinished work is kept")
    parser.add_argument("--out", type=Path, default=Path("weights/adapters"), help="the folder of the file")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    name, train = ("sun", train_embedding) if arguments.embedding else ("heart", train_lora)
    work = arguments.work or Path("weights/training") / name
    work.mkdir(parents=True, exist_ok=True)
    train(Run(work, arguments.seed, torch.device("cpu")), arguments.out / f"{name}.safetensors")
    print(f"done in {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
