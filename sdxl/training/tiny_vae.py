"""Tiny VAEs: their loss, and their file."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..models.tiny_vae import TinyVAE
from ..weights.container import save_tensors
from ..weights.path import AnyPath
from ..weights.tiny_vae import tiny_vae_rows


def decoder_loss(vae: TinyVAE, z: Tensor, x: Tensor) -> Tensor:
    """Squared and absolute error, both means, of scaled latents z (B, 4, h, w) that are decoded, and the images x
    (B, 3, H, W) in -1..1 that a large VAE made of them.
    """
    error = vae.decode(z) - x.clamp(-1, 1)
    return error.square().mean() + error.abs().mean()


def save_decoder(path: AnyPath, vae: TinyVAE, metadata: Mapping[str, str], dtype: torch.dtype = torch.float16) -> None:
    """Write the decoder as TAESD's own file is. `metadata` is for its header. Raises `OutputError`."""
    state, rows = vae.decoder.state_dict(), tiny_vae_rows(vae.config)
    decoder = {row.ours.removeprefix("decoder."): row.single for row in rows if row.ours.startswith("decoder.")}
    tensors = {key: state[ours].detach().cpu().to(dtype).contiguous() for ours, key in decoder.items()}
    save_tensors(tensors, path, dict(metadata))
