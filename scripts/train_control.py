"""Train a ControlNet for the miniature: `python scripts/train_control.py`.

It learns to put the things of a scene where their edges are. The scenes are the miniature's, with the things moved to
any place; the edges are those of the things alone, so that the prompt decides colours, ground and pattern. Unfinished
work is kept in --work; the same command goes on where the last one stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from training_data import Example, World
from training_miniature import load_miniature
from training_run import Plan, Run, make_parser, train_from

from sdxl.miniature.edges import edges, move
from sdxl.models.control_config import ControlNetConfig
from sdxl.models.controlnet import ControlNet
from sdxl.training.control import control_loss, save_controlnet, start_controlnet

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
    miniature = load_miniature()
    stored = miniature.store(run, SCENES, EdgeWorld())
    unet = miniature.unet.to(memory_format=torch.channels_last)
    net = ControlNet(ControlNetConfig(unet.config, HINT))
    start_controlnet(net, unet)
    net.to(memory_format=torch.channels_last)

    def loss(z: Tensor, noise: Tensor, t: Tensor, ids: Tensor, sizes: Tensor, kept: Tensor, image: Tensor) -> Tensor:
        hint = image.expand(-1, 3, -1, -1)
        return control_loss(net, unet, hint, z, noise, t, miniature.table[t], *miniature.encode(ids, sizes, kept))

    for n, (name, plan) in enumerate(PLANS.items()):  # the second goes on with the averaged weights of the first
        data = miniature.noised(run, plan, stored, place=60 + 2 * n)
        run.train(name, net.requires_grad_(True), plan, data, loss)
    save_controlnet(out, net, METADATA)


def main() -> None:
    flags = make_parser(__doc__, "weights/training/edges", "weights/adapters/edges.safetensors").parse_args()
    train_from(flags, lambda run: train_control(run, flags.out))


if __name__ == "__main__":
    main()
