"""What the losses of adapters are computed from: the tiny UNet, and noised latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdxl.models import ScheduleConfig
from sdxl.models.unet import UNet
from sdxl.sampling.schedule import noise_table
from sdxl.training import load_network
from sdxl.weights import open_checkpoint

LATENT: dict[str, Any] = {"steps": 2, "seed": 3, "output": "latent", "progress": False, "sampler": "euler"}


def load_unet(folder: Path) -> UNet:
    """The UNet of a model with plain layers, frozen."""
    network = load_network(open_checkpoint(folder).components["unet"])
    assert isinstance(network, UNet)
    return network


def noised(unet: UNet, generator: torch.Generator) -> tuple[Tensor, ...]:
    """z, noise, t, sigma, context; the batch is 2."""
    z, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    t = torch.tensor([100, 700])
    sigma = torch.tensor(noise_table(ScheduleConfig()).sigmas, dtype=torch.float32)[t]
    return z, noise, t, sigma, torch.randn(2, 77, unet.config.context_dim, generator=generator)
