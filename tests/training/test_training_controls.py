"""ControlNets in training: they begin as nothing, learn from the control image, and their file is what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from deep import deep_folder, deep_pipe, deep_reference  # noqa: F401  fixtures
from noised import LATENT, load_unet, noised
from PIL import Image
from torch import Tensor

import sdxl
from sdxl.models.control_config import ControlNetConfig
from sdxl.models.controlnet import ControlNet
from sdxl.models.unet import UNet
from sdxl.training import control_loss, denoising_loss, save_controlnet, start_controlnet
from sdxl.training.losses import size_embedding
from sdxl.weights import TensorFile


@pytest.fixture(scope="module")
def unet(tiny_folder: Path) -> UNet:
    return load_unet(tiny_folder)


@pytest.fixture
def net(unet: UNet) -> ControlNet:
    torch.manual_seed(0)
    net = ControlNet(ControlNetConfig(unet.config, (4, 8, 12, 16)))
    start_controlnet(net, unet)
    return net


def batch(unet: UNet) -> tuple[Tensor, ...]:
    """z, noise, t, sigma, context, vector."""
    generator = torch.Generator().manual_seed(0)
    return *noised(unet, generator), torch.randn(2, unet.config.vector_dim, generator=generator)


def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_a_new_net_is_the_unets_half_and_adds_nothing(unet: UNet, net: ControlNet) -> None:
    z, noise, t, sigma, context, vector = batch(unet)
    residuals = net(z, t, context, vector, images())
    assert residuals.mid is not None
    assert not any(bool(each.any()) for each in (*residuals.skips, residuals.mid))
    theirs = unet.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in net.state_dict().items() if name in theirs)
    plain = denoising_loss(unet, z, noise, t, sigma, context, vector)
    assert torch.equal(control_loss(net, unet, images(), z, noise, t, sigma, context, vector), plain)


@torch.no_grad()
def shake(net: ControlNet) -> ControlNet:
    """No weight of it is zero any more; the weights are those that a file in float16 holds."""
    generator = torch.Generator().manual_seed(2)
    for parameter in net.parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator)).copy_(parameter.half())
    return net


def test_diffusers_reads_the_file_and_has_the_same_loss(
    unet: UNet, net: ControlNet, reference_pipe: Any, tmp_path: Path
) -> None:
    control_nets = pytest.importorskip("control_nets")
    save_controlnet(tmp_path / "net.safetensors", shake(net), {"modelspec.title": "edges"})
    file = TensorFile(tmp_path / "net.safetensors")
    theirs = control_nets.ControlNetModel(**control_nets.CONTROLNET)
    theirs.load_state_dict({key: file.read(key).float() for key in file.shapes})

    z, noise, t, sigma, context, _ = batch(unet)
    ids = torch.tensor([[64.0, 48.0, 0.0, 8.0, 64.0, 64.0]] * 2)
    pooled = torch.randn(2, unet.config.vector_dim - 6 * unet.config.size_dim)
    x = (z + sigma[:, None, None, None] * noise) / (sigma[:, None, None, None].square() + 1).sqrt()
    more: dict[str, Any] = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}, "return_dict": False}
    with torch.no_grad():
        skips, mid = theirs(x, t, context, controlnet_cond=images(), **more)
        extra = {"down_block_additional_residuals": skips, "mid_block_additional_residual": mid}
        predicted = reference_pipe.unet(x, t, context, **more, **extra)[0]
    snr = 1 / sigma.square()
    expected = ((predicted - noise).square().mean((1, 2, 3)) * snr.clamp(max=5) / snr).mean()

    vector = torch.cat([pooled, size_embedding(ids, unet.config.size_dim)], dim=1)
    found = control_loss(net, unet, images(), z, noise, t, sigma, context, vector)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_one_caption_stands_for_all_rows(unet: UNet, net: ControlNet) -> None:
    z, noise, t, sigma, context, vector = batch(unet)
    one = context[:1], vector[:1]
    both = context[:1].repeat(2, 1, 1), vector[:1].repeat(2, 1)
    shake(net)
    expected = control_loss(net, unet, images(), z, noise, t, sigma, *both)
    assert torch.allclose(control_loss(net, unet, images(), z, noise, t, sigma, *one), expected)


def test_it_learns_from_the_control_image(unet: UNet, net: ControlNet) -> None:
    """Two rows that only their control images tell apart: the loss falls for the net, and the UNet stays."""
    z, noise, t, sigma, context, vector = batch(unet)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        loss = control_loss(net, unet, images(), z, noise, t, sigma, context, vector)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(bool(layer.weight.any()) for layer in (*net.zero, net.zero_mid, net.hint.convs[-1]))
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


def test_a_pipeline_reads_the_file(unet: UNet, net: ControlNet, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    plain = tiny_pipe("a red cat", height=64, width=64, **LATENT).images
    save_controlnet(tmp_path / "new.safetensors", net, {})
    new = tiny_pipe(
        "a red cat", height=64, width=64, control=sdxl.Control(tmp_path / "new.safetensors", image), **LATENT
    )
    assert torch.equal(new.images, plain)
    save_controlnet(tmp_path / "net.safetensors", shake(net), {})
    steered = tiny_pipe(
        "a red cat", height=64, width=64, control=sdxl.Control(tmp_path / "net.safetensors", image), **LATENT
    )
    assert not torch.allclose(steered.images, plain, atol=1e-3)
