"""The initial weights of SDXL's networks."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from ..models.clip import TextEncoder
from ..models.layers import ResBlock
from ..models.unet import SpatialTransformer, UNet
from ..models.vae import VAE


def start_unet(unet: UNet) -> None:
    """Zero the last layer of every residual branch and of the network: all blocks begin as the identity (official code;
    Dhariwal & Nichol 2021, arXiv 2105.05233).
    """
    for module in unet.modules():
        if isinstance(module, SpatialTransformer):
            zero(module.proj_out)
    for level in unet.levels():
        for block in cast(list[ResBlock], level.res):
            zero(block.conv2)
    zero(unet.conv_out)


def start_text_encoder(encoder: TextEncoder) -> None:
    """Position embeddings begin small: those of the tokens have a standard deviation of 1."""
    nn.init.normal_(encoder.position_embed.weight, std=0.1)


def start_vae(vae: VAE) -> None:
    """The posterior begins narrow (log variance -6): the decoder first learns from clean latents."""
    latent = vae.config.latent_channels
    with torch.no_grad():
        vae.quant_conv.weight[latent:] = 0
        assert vae.quant_conv.bias is not None
        vae.quant_conv.bias[latent:] = -6


def zero(layer: nn.Linear | nn.Conv2d) -> None:
    """Let a layer begin with zeros."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
