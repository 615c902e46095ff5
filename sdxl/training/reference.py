"""IP-Adapters (Ye et al. 2023, arXiv 2308.06721): how they begin, their loss, and their files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..models.ip_adapter import IPAdapter, KeyValue, file_order
from ..models.layers import Source, split_heads
from ..models.unet import Memory, UNet
from ..models.vision import VisionEncoder
from ..weights.container import save_tensors
from ..weights.diffusers_config import write_vision
from ..weights.path import AnyPath, expanded
from ..weights.reference_rows import ip_adapter_rows, vision_rows
from .losses import denoising_loss
from .start import zero
from .tensors import file_tensors


def start_ip_adapter(adapter: IPAdapter) -> None:
    """Values begin at zero: at first nothing is added to the UNet."""
    for module in adapter.modules():
        if isinstance(module, KeyValue):
            zero(module.v)


def reference_loss(
    adapter: IPAdapter,
    unet: UNet,
    embedding: Tensor,
    z: Tensor,
    noise: Tensor,
    t: Tensor,
    sigma: Tensor,
    context: Tensor,
    vector: Tensor,
    gamma: float | None = 5.0,
    prediction: str = "epsilon",
) -> Tensor:
    """The `denoising_loss` of a UNet that sees a reference image in each row: its embedding (B, image_dim) for a plain
    adapter, its hidden states (B, L, image_dim) for a plus one; zeros where it is dropped, for guidance.
    """
    tokens = adapter.project(embedding).expand(len(z), -1, -1)

    def predict(x: Tensor, t: Tensor, context: Tensor, vector: Tensor) -> Tensor:
        memories = _beside(adapter, unet, unet.context_kv(context), tokens)
        return unet.predict(x, unet.embed(t, vector), memories)

    return denoising_loss(predict, z, noise, t, sigma, context, vector, gamma, prediction)


def _beside(adapter: IPAdapter, unet: UNet, memories: list[Memory], tokens: Tensor) -> list[Memory]:
    """The memories of a UNet's blocks with a source for image tokens (B, N, context_dim)."""
    names = unet.config.block_names()
    places: dict[str, nn.Module] = dict(zip(file_order(names), adapter.places, strict=True))
    seeing = []
    for name, memory in zip(names, memories, strict=True):
        keys, values = places[name](tokens)
        heads = memory.cross[0].values.shape[1]
        source = Source(split_heads(keys, heads), split_heads(values, heads))
        seeing.append(replace(memory, cross=(*memory.cross, source)))
    return seeing


def save_ip_adapter(
    path: AnyPath, adapter: IPAdapter, metadata: Mapping[str, str], dtype: torch.dtype = torch.float16
) -> None:
    """Write an IP-Adapter under the published names. `metadata` is for its header. Raises `OutputError`."""
    tensors = file_tensors(adapter, ip_adapter_rows(adapter.config), dtype)
    architecture = "stable-diffusion-xl-v1-base/ip-adapter"
    save_tensors(tensors, path, {"modelspec.architecture": architecture, **metadata})


def save_image_encoder(folder: AnyPath, encoder: VisionEncoder, dtype: torch.dtype = torch.float16) -> None:
    """Write an image encoder as transformers does: a folder with `config.json` and `model.safetensors`. Raises
    `OutputError`.
    """
    tensors = file_tensors(encoder, vision_rows(encoder.config), dtype)
    folder = expanded(folder)
    save_tensors(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.dumps(write_vision(encoder.config), indent=2, sort_keys=True)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8", newline="\n")
