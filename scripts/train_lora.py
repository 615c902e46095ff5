"""Teach the miniature a new shape with a LoRA: `python scripts/train_lora.py`.

The miniature has never seen a heart, nor the word. Rank 4 beside all layers of the UNet and of both text encoders
is trained on drawn scenes with hearts, and on others, so that these stay as they are. Unfinished work is kept in
--work; the same command goes on where the last one stopped.
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
from sdxl.miniature.scenes import heart_scene
from sdxl.sampling.schedule import noise_table
from sdxl.text.tokenizer import Tokenizer
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


@dataclass(frozen=True)
class HeartWorld(World):
    """Scenes with a heart, and a third without."""

    def example(self, rng: Generator, bucket: tuple[int, int], flawed: bool) -> Example:
        example = super().example(rng, bucket, flawed)
        return replace(example, scene=heart_scene(rng)) if rng.random() < 0.67 else example


def train(run: Run, out: Path) -> None:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("weights/lora"), help="where unfinished work is kept")
    parser.add_argument("--out", type=Path, default=Path("weights/adapters/heart.safetensors"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    arguments.work.mkdir(parents=True, exist_ok=True)
    train(Run(arguments.work, arguments.seed, torch.device("cpu")), arguments.out)
    print(f"done in {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
