"""IP-Adapters in training: they begin as nothing, their loss is diffusers', and their files are what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from noised import LATENT, load_unet, noised
from PIL import Image
from torch import Tensor

import sdxl
from sdxl.adapters.ip_adapter import places
from sdxl.models.ip_adapter import IPAdapter
from sdxl.models.unet import UNet
from sdxl.models.vision import VisionEncoder
from sdxl.models.vision_config import IPAdapterConfig, VisionConfig
from sdxl.training import (
    denoising_loss,
    reference_loss,
    save_image_encoder,
    save_ip_adapter,
    start_ip_adapter,
)
from sdxl.training.losses import size_embedding

ENCODER = VisionConfig(dim=32, ff_dim=64, layers=2, heads=2, patch=8, image_size=32, projection_dim=24)


@pytest.fixture(scope="module")
def unet(tiny_folder: Path) -> UNet:
    return load_unet(tiny_folder)


@pytest.fixture
def adapter(unet: UNet) -> IPAdapter:
    torch.manual_seed(0)
    widths = tuple(places(unet.config))
    adapter = IPAdapter(IPAdapterConfig(ENCODER.projection_dim, unet.config.context_dim, widths))
    start_ip_adapter(adapter)
    return adapter


@torch.no_grad()
def shake(network: torch.nn.Module) -> None:
    """No weight of it is zero any more; the weights are those that a file in float16 holds."""
    generator = torch.Generator().manual_seed(2)
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator)).copy_(parameter.half())


def batch(unet: UNet) -> tuple[Tensor, ...]:
    """z, noise, t, sigma, context, pooled text, sizes, and the embeddings of the images."""
    generator = torch.Generator().manual_seed(0)
    shared = noised(unet, generator)
    pooled = torch.randn(2, unet.config.vector_dim - 6 * unet.config.size_dim, generator=generator)
    ids = torch.tensor([[64.0, 48.0, 0.0, 8.0, 64.0, 64.0]] * 2)
    return *shared, pooled, ids, torch.randn(2, ENCODER.projection_dim, generator=generator)


def test_a_new_adapter_adds_nothing(unet: UNet, adapter: IPAdapter) -> None:
    z, noise, t, sigma, context, pooled, ids, embedding = batch(unet)
    vector = torch.cat([pooled, size_embedding(ids, unet.config.size_dim)], dim=1)
    plain = denoising_loss(unet, z, noise, t, sigma, context, vector)
    found = reference_loss(adapter, unet, embedding, z, noise, t, sigma, context, vector)
    assert torch.equal(found, plain)


def test_one_caption_and_one_image_stand_for_all_rows(unet: UNet, adapter: IPAdapter) -> None:
    z, noise, t, sigma, context, pooled, ids, embedding = batch(unet)
    vector = torch.cat([pooled, size_embedding(ids, unet.config.size_dim)], dim=1)
    shake(adapter)
    both = embedding[:1].repeat(2, 1), z, noise, t, sigma, context[:1].repeat(2, 1, 1), vector[:1].repeat(2, 1)
    one = embedding[:1], z, noise, t, sigma, context[:1], vector[:1]
    assert torch.allclose(reference_loss(adapter, unet, *one), reference_loss(adapter, unet, *both))


def test_diffusers_reads_the_file_and_has_the_same_loss(
    unet: UNet, adapter: IPAdapter, tiny_folder: Path, tmp_path: Path
) -> None:
    diffusers = pytest.importorskip("diffusers")
    shake(adapter)
    save_ip_adapter(tmp_path / "adapter.safetensors", adapter, {"modelspec.title": "colours"})
    theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(tiny_folder)
    theirs.load_ip_adapter(str(tmp_path), subfolder="", weight_name="adapter.safetensors", image_encoder_folder=None)
    theirs.set_ip_adapter_scale(1.0)

    z, noise, t, sigma, context, pooled, ids, embedding = batch(unet)
    x = (z + sigma[:, None, None, None] * noise) / (sigma[:, None, None, None].square() + 1).sqrt()
    added = {"text_embeds": pooled, "time_ids": ids, "image_embeds": [embedding[:, None]]}
    with torch.no_grad():
        predicted = theirs.unet(x, t, context, added_cond_kwargs=added, return_dict=False)[0]
    snr = 1 / sigma.square()
    expected = ((predicted - noise).square().mean((1, 2, 3)) * snr.clamp(max=5) / snr).mean()

    vector = torch.cat([pooled, size_embedding(ids, unet.config.size_dim)], dim=1)
    found = reference_loss(adapter, unet, embedding, z, noise, t, sigma, context, vector)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_transformers_reads_the_image_encoder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    encoder = VisionEncoder(ENCODER)
    shake(encoder)
    save_image_encoder(tmp_path / "image_encoder", encoder)
    theirs = transformers.CLIPVisionModelWithProjection.from_pretrained(tmp_path / "image_encoder").float()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(encoder(pixels)[1], theirs(pixels).image_embeds, atol=1e-5)


def test_a_pipeline_reads_the_files(adapter: IPAdapter, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    encoder, image = VisionEncoder(ENCODER), Image.effect_noise((32, 32), 80).convert("RGB")
    save_image_encoder(tmp_path / "image_encoder", encoder)
    plain = tiny_pipe("a red cat", **LATENT).images
    save_ip_adapter(tmp_path / "new.safetensors", adapter, {})
    new = tiny_pipe("a red cat", reference=sdxl.Reference(tmp_path / "new.safetensors", image, scale=1), **LATENT)
    assert torch.allclose(new.images, plain, atol=1e-5)
    shake(adapter)
    save_ip_adapter(tmp_path / "adapter.safetensors", adapter, {})
    seen = tiny_pipe("a red cat", reference=sdxl.Reference(tmp_path / "adapter.safetensors", image, scale=1), **LATENT)
    assert not torch.allclose(seen.images, plain, atol=1e-3)


def test_it_learns_from_the_image(unet: UNet, adapter: IPAdapter) -> None:
    z, noise, t, sigma, context, pooled, ids, embedding = batch(unet)
    vector = torch.cat([pooled, size_embedding(ids, unet.config.size_dim)], dim=1)
    optimizer = torch.optim.Adam(adapter.parameters(), 1e-2)
    losses = []
    for _ in range(10):
        loss = reference_loss(adapter, unet, embedding, z, noise, t, sigma, context, vector)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(bool(place.v.weight.any()) for place in adapter.places)
