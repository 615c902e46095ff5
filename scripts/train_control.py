"""Train a ControlNet for the miniature: `python scripts/train_control.py`.

It learns to put the things of a scene where their edges are. The scenes are the miniature's, with the things moved to
any place; the edges are those of the things alone, so that the prompt decides colours, ground and pattern. Unfinished
work is kept in --work; the same command goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from training_data import TRAIN_STEPS, Example, Noised, World, store_latents
from training_run import Plan, Run

import sdxl
from sdxl.miniature.edges import edges, move
from sdxl.models.control_config import ControlNetConfig
from sdxl.models.controlnet import ControlNet
from sdxl.models.unet import UNet
from sdxl.sampling.schedule import noise_table
from sdxl.text.tokenizer import Tokenizer
from sdxl.training.control import control_loss, save_controlnet, start_controlnet
from sdxl.training.lora import load_network
from sdxl.training.losses import encode_captions
from sdxl.weights.checkpoint import open_checkpoint
from sdxl.weights.hub import on_disk
from sdxl.weights.keymap import TEXT, TEXT_2
from sdxl.weights.keymap import UNET as UNET_NAME

PLANS = {"control": Plan(800, 16, 1e-3, warmup=30, decay=0.99), "control-2": Plan(400, 16, 1e-3, warmup=30, decay=0.99)}
SCENES = 3200
HINT = (16, 32, 64, 64)  # channels of the encoder of control images
METADATA = {
    "modelspec.title": "edges",
    "modelspec.description": "the miniature's ControlNet: things where their edges are, white on black",
}


@dataclass(frozen=True)
class EdgeWorld(World):
    """Scenes with their things anywhere, and the edges of these things."""

    def example(self, rng: Generator, bucket: tuple[int, int], flawed: bool) -> Example:
        example = super().example(rng, bucket, flawed)
        scene = move(example.scene, rng)
        drawn = np.asarray(edges(scene, bucket, example.crop))[..., :1]
        return replace(example, scene=scene, hint=drawn.copy())


def train_control(run: Run, out: Path) -> None:
    """The latents, the network, the file."""
    torch.manual_seed(run.seed)
    checkpoint = open_checkpoint(on_disk("miniature"))
    info, vae = checkpoint.info, sdxl.Pipeline.from_pretrained("miniature", dtype="float32").vae
    stored = store_latents(run, vae, SCENES, False, EdgeWorld())
    networks = {name: load_network(checkpoint.components[name]) for name in (UNET_NAME, TEXT, TEXT_2)}
    unet = networks[UNET_NAME].to(memory_format=torch.channels_last)
    assert isinstance(unet, UNet)
    net = ControlNet(ControlNetConfig(unet.config, HINT))
    start_controlnet(net, unet)
    net.to(memory_format=torch.channels_last)
    table = torch.tensor(noise_table(info.schedule).sigmas, dtype=torch.float32)

    def loss(z: Tensor, noise: Tensor, t: Tensor, ids: Tensor, sizes: Tensor, kept: Tensor, image: Tensor) -> Tensor:
        encoders = [networks[TEXT], networks[TEXT_2]]
        with torch.no_grad():
            context, vector = encode_captions(encoders, list(ids), sizes, kept, unet.config.size_dim)
        return control_loss(net, unet, image.expand(-1, 3, -1, -1), z, noise, t, table[t], context, vector)

    tokenizers = [Tokenizer(info.tokenizers[name]) for name in (TEXT, TEXT_2)]
    for n, (name, plan) in enumerate(PLANS.items()):  # the second goes on with the averaged weights of the first
        data = Noised(run, plan, stored, tokenizers, TRAIN_STEPS, place=60 + 2 * n)
        run.train(name, net.requires_grad_(True), plan, data, loss)
    save_controlnet(out, net, METADATA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("weights/training/edges"), help="where unfinished work is kept"
    )
    parser.add_argument("--out", type=Path, default=Path("weights/adapters/edges.safetensors"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    arguments.work.mkdir(parents=True, exist_ok=True)
    train_control(Run(arguments.work, arguments.seed, torch.device("cpu")), arguments.out)
    print(f"done in {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
