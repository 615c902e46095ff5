"""Decoding and encoding in strips against the whole computation: equal in float64 to 1e-10."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import sdxl
from sdxl.models.config import VAEConfig
from sdxl.models.vae import VAE
from sdxl.runtime.vae_strips import decode_strips, encode_strips

FOUR = VAEConfig(channels=(8, 8, 16, 16), norm_groups=4)
TWO = VAEConfig(channels=(8, 16), norm_groups=2, latent_channels=8, blocks=1)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 0.1}


def make_vae(config: VAEConfig = FOUR, dtype: torch.dtype = torch.float64) -> VAE:
    """Random weights; norms with large shifts, so that no border is close to zero."""
    generator = torch.Generator().manual_seed(0)
    vae = VAE(config).to(dtype)
    for weight in vae.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data.copy_(noise / weight[0].numel() ** 0.5)
    return vae.eval()


def slope(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Noise on a slope from top to bottom, so that the strips differ in mean and variance."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)
    return noise * torch.linspace(0.2, 2, height)[:, None] + torch.linspace(-1, 1, height)[:, None]


@torch.no_grad()
def check(vae: VAE, batch: int, height: int, width: int, rows: int, error: Any) -> None:
    """Both ways, on latents of this size, in the dtype of the weights."""
    dtype, config = vae.post_quant_conv.weight.dtype, vae.config
    z = slope(batch, config.latent_channels, height, width).to(dtype)
    x = slope(batch, 3, height * config.factor, width * config.factor).to(dtype)
    decoded, encoded = decode_strips(vae, z, rows), encode_strips(vae, x, z, rows)
    assert decoded.dtype is encoded.dtype is dtype
    assert error(decoded, vae.decode(z)) < TOLERANCE[dtype]
    assert error(encoded, vae.encode(x, z)) < TOLERANCE[dtype]


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 9, 100])
def test_rows(rows: int, error: Any) -> None:
    check(make_vae(), 2, 9, 5, rows, error)


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 1, 1), (1, 1, 6), (3, 2, 3), (1, 13, 2)])
def test_sizes(batch: int, height: int, width: int, error: Any) -> None:
    check(make_vae(), batch, height, width, 4, error)


def test_another_config(error: Any) -> None:
    check(make_vae(TWO), 1, 11, 7, 3, error)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_dtypes_and_layouts(dtype: torch.dtype, layout: torch.memory_format, error: Any) -> None:
    check(make_vae(dtype=dtype).to(memory_format=layout), 2, 7, 5, 2, error)


def test_statistics_far_from_zero(error: Any) -> None:
    """A mean a thousand times the deviation, which sums of squares in float32 would not survive."""
    vae = make_vae(dtype=torch.float32)
    vae.decoder.up[-1].res[-1].conv2.bias.data.fill_(1000)
    check(vae, 1, 8, 8, 2, error)


class Peak(TorchDispatchMode):
    """Counts the bytes of the tensors that operators made and that are still alive, and the most of them."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = op(*args, **(kwargs or {}))
        for storage in {each.untyped_storage() for each in tree_leaves(made) if isinstance(each, Tensor)}:
            if id(storage) not in self.known:
                self.count(id(storage), storage.nbytes())
                weakref.finalize(storage, self.count, id(storage), -storage.nbytes())
        return made

    def count(self, name: int, size: int) -> None:
        self.known ^= {name}
        self.alive += size
        self.most = max(self.most, self.alive)


@torch.no_grad()
def peak(compute: Callable[..., Tensor], *arguments: Any) -> int:
    with Peak() as counted:
        compute(*arguments)
    return counted.most


def test_memory() -> None:
    """Little more than the largest map: the input of the decoder's last level, or the two maps of its other blocks."""
    vae = make_vae(VAEConfig(channels=(8, 16, 32, 32), norm_groups=4))
    z, x = slope(1, 4, 96, 2), slope(1, 3, 768, 16)
    largest = 16 * 768 * 16 * 8
    assert peak(decode_strips, vae, z, 2) < 1.3 * largest  # the whole map: 2.5 times the largest
    assert 1.9 * largest < peak(vae.decode, z) < 2.6 * largest
    assert peak(encode_strips, vae, x, None, 2) < 1.4 * largest


def test_a_picture_is_encoded_in_strips_where_memory_is_short(tiny_folder: Path) -> None:
    pixels = torch.rand(1, 3, 136, 72, generator=torch.Generator().manual_seed(0))
    pipes = [
        sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload=offload)
        for offload in ("none", "block")
    ]
    with patch("sdxl.pipeline.latents.encode_strips", wraps=encode_strips) as strips:
        whole, parts = (pipe.encode(pixels) for pipe in pipes)
    assert strips.call_count == 1
    assert (whole - parts).abs().max() < 1e-4
