"""What an adapter of the miniature is trained with: the networks as they are in its files, frozen and in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from training_data import TRAIN_STEPS, Latents, Noised, World, store_latents
from training_run import Plan, Run

import sdxl
from sdxl.models.unet import UNet
from sdxl.sampling.schedule import noise_table
from sdxl.text.tokenizer import Tokenizer
from sdxl.training.lora import load_network
from sdxl.training.losses import encode_captions
from sdxl.weights.checkpoint import open_checkpoint
from sdxl.weights.hub import on_disk
from sdxl.weights.info import ModelInfo
from sdxl.weights.keymap import TEXT, TEXT_2
from sdxl.weights.keymap import UNET as UNET_NAME


@dataclass(frozen=True)
class Miniature:
    """The networks by their names, the tokenizers of both text encoders, and the noise level of each timestep."""

    pipe: sdxl.Pipeline
    networks: dict[str, nn.Module]
    tokenizers: Sequence[Tokenizer]
    table: Tensor

    @property
    def info(self) -> ModelInfo:
        return self.pipe.info

    @property
    def unet(self) -> UNet:
        unet = self.networks[UNET_NAME]
        assert isinstance(unet, UNet)
        return unet

    @property
    def encoders(self) -> list[nn.Module]:
        return [self.networks[TEXT], self.networks[TEXT_2]]

    @torch.no_grad()
    def encode(self, ids: Tensor, sizes: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Context and vector of captions, as `Noised` gives them."""
        return encode_captions(self.encoders, list(ids), sizes, kept, self.unet.config.size_dim)

    def store(self, run: Run, count: int, world: World) -> list[Latents]:
        """Images of a world and their latents."""
        return store_latents(run, self.pipe.vae, count, False, world)

    def noised(self, run: Run, plan: Plan, stored: list[Latents], place: int) -> Noised:
        """What its UNet trains on."""
        return Noised(run, plan, stored, self.tokenizers, TRAIN_STEPS, place)


def load_miniature() -> Miniature:
    """The built-in one."""
    checkpoint = open_checkpoint(on_disk("miniature"))
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32")
    networks = {name: load_network(checkpoint.components[name]) for name in (UNET_NAME, TEXT, TEXT_2)}
    tokenizers = [Tokenizer(checkpoint.info.tokenizers[name]) for name in (TEXT, TEXT_2)]
    table = torch.tensor(noise_table(checkpoint.info.schedule).sigmas, dtype=torch.float32)
    return Miniature(pipe, networks, tokenizers, table)
