"""Low-rank layers: what they compute, what they learn, and the file that a pipeline reads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdxl
from sdxl.errors import ArgumentError
from sdxl.models.unet import UNet
from sdxl.runtime.sealed import Sealed
from sdxl.sampling.schedule import noise_table
from sdxl.text import TextStage, Tokenizer
from sdxl.text.encode import embed_sizes
from sdxl.training import LowRank, attach_lora, captioned_loss, denoising_loss, detach_lora, load_network, save_lora
from sdxl.weights import ModelInfo, open_checkpoint
from sdxl.weights.keymap import TEXT, TEXT_2, UNET

LATENT: dict[str, Any] = {"steps": 2, "seed": 3, "output": "latent", "progress": False, "sampler": "euler"}


@pytest.mark.parametrize(
    "base", [nn.Linear(6, 8), nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)]
)
def test_a_low_rank_layer_is_the_layer_of_the_sum(base: nn.Linear | nn.Conv2d) -> None:
    layer = LowRank(base, 3, alpha=1.5)
    x = torch.randn(2, 5, 6) if isinstance(base, nn.Linear) else torch.randn(2, 6, 8, 8)
    assert torch.equal(layer(x), base(x))
    nn.init.normal_(layer.up.weight)
    change = 0.5 * (layer.up.weight.flatten(1) @ layer.down.weight.flatten(1)).reshape(base.weight.shape)
    if isinstance(base, nn.Linear):
        expected = nn.functional.linear(x, base.weight + change, layer.bias)
    else:
        expected = nn.functional.conv2d(x, base.weight + change, layer.bias, base.stride, base.padding)
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_attached_layers_can_be_selected_and_detached() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    kept = network[2]
    assert list(attach_lora(network, 8, alpha=4, selected=lambda name: name == "2")) == ["2"]
    layer = network[2]
    assert isinstance(layer, LowRank)
    assert layer.down.weight.shape[0] == 2  # the weight has two rows
    assert layer.alpha == 1
    detach_lora(network)
    assert network[2] is kept


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("base", [nn.Linear(6, 8), nn.Conv2d(6, 8, 3, padding=1)])
def test_a_low_rank_layer_trains_in_float32_beside_a_layer_in_half(
    base: nn.Linear | nn.Conv2d, dtype: torch.dtype
) -> None:
    layer = LowRank(base.to(dtype), 3, alpha=3)
    nn.init.normal_(layer.up.weight)
    x = torch.randn(2, 5, 6) if isinstance(base, nn.Linear) else torch.randn(2, 6, 8, 8)
    x = x.to(dtype)
    y = layer(x)
    assert y.dtype is dtype
    assert torch.equal(y, base(x) + layer.up(layer.down(x.float())).to(dtype))
    y.float().square().sum().backward()
    assert layer.down.weight.grad is not None
    assert layer.down.weight.grad.dtype is torch.float32
    base.float()


def test_what_cannot_be_attached_is_an_error(tiny_pipe: sdxl.Pipeline) -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(4, 2, 1))
    with pytest.raises(ArgumentError, match=r"takes no linear .*; expected a part of its 2, such as '1'"):
        attach_lora(network, 2, selected=lambda name: name.endswith("to_q"))
    with pytest.raises(ArgumentError, match="rank is 0"):
        attach_lora(network, 0)
    with pytest.raises(ArgumentError, match="it has none"):
        attach_lora(nn.Sequential(nn.ReLU()), 2)
    attach_lora(network, 2, selected=lambda name: name == "0")
    with pytest.raises(ArgumentError, match="has low-rank layers"):
        attach_lora(network, 2)
    if any(isinstance(module, Sealed) for module in tiny_pipe.unet.modules()):
        with pytest.raises(ArgumentError, match="trainable=True"):
            attach_lora(tiny_pipe.unet, 2)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"text": {}}, "layers has 'text'; expected components of the model: unet, text_encoder, text_encoder_2"),
        ({"vae": {}}, "layers has 'vae'"),
        ({UNET: {"attn.to_q": LowRank(nn.Linear(4, 4), 2, 2)}}, "the unet of this model has no layer 'attn.to_q'"),
    ],
)
def test_layers_that_a_model_has_not_are_not_saved(
    layers: dict[str, dict[str, LowRank]], message: str, tiny_pipe: sdxl.Pipeline, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=message):
        save_lora(tmp_path / "lora.safetensors", tiny_pipe.info.config, layers, {})
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def networks(tiny_folder: Path) -> dict[str, nn.Module]:
    components = open_checkpoint(tiny_folder).components
    return {name: load_network(components[name]) for name in (UNET, TEXT, TEXT_2)}


def overfit(
    networks: dict[str, nn.Module], info: ModelInfo, factors: list[nn.Parameter], stages: list[TextStage]
) -> tuple[float, float]:
    """The loss of one image with a caption before and after some updates."""
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 4, 4, 8, 8, generator=generator)
    table = torch.tensor(noise_table(info.schedule).sigmas, dtype=torch.float32)
    t = torch.tensor([50, 300, 600, 950])
    ids = [torch.tensor(stage.tokenizer(["a red cat"] * 4)) for stage in stages]
    sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 4)
    optimizer = torch.optim.Adam(factors, 1e-2)
    losses = []
    for _ in range(8):
        encoders = [stage.encoder for stage in stages]
        loss = captioned_loss(networks[UNET], encoders, z, noise, t, table[t], ids, sizes, torch.tensor([1, 1, 0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def test_a_trained_file_gives_the_outputs_of_the_trained_networks(
    networks: dict[str, nn.Module], tiny_pipe: sdxl.Pipeline, tmp_path: Path, error: Any
) -> None:
    torch.manual_seed(0)
    info = tiny_pipe.info
    layers = {
        UNET: attach_lora(networks[UNET], 4, alpha=8),
        TEXT: attach_lora(networks[TEXT], 4, selected=lambda name: name.startswith(("layers.0.", "layers.1."))),
        TEXT_2: attach_lora(networks[TEXT_2], 4, selected=lambda name: name.startswith("layers.")),
    }
    stages = [TextStage(Tokenizer(info.tokenizers[name]), networks[name]) for name in (TEXT, TEXT_2)]
    every = [layer for each in layers.values() for layer in each.values()]
    factors = [factor.weight for layer in every for factor in (layer.down, layer.up)]
    before, after = overfit(networks, info, factors, stages)
    assert after < 0.7 * before
    assert all(bool(layer.up.weight.any()) for layer in every)

    trained = sdxl.Pipeline.from_networks(info, networks[UNET], tiny_pipe.vae, stages)
    wanted, plain = trained("a red cat", **LATENT).images, tiny_pipe("a red cat", **LATENT).images
    save_lora(tmp_path / "lora.safetensors", info.config, layers, {"modelspec.title": "cat"}, torch.float32)
    tiny_pipe.set_loras([tmp_path / "lora.safetensors"])
    assert tiny_pipe.loras[0].modules == {name: len(each) for name, each in layers.items()}
    assert not tiny_pipe.loras[0].unknown
    assert error(tiny_pipe("a red cat", **LATENT).images, wanted) < 1e-5
    tiny_pipe.set_loras([])
    assert torch.equal(tiny_pipe("a red cat", **LATENT).images, plain)
    for network in networks.values():
        detach_lora(network)
    back = sdxl.Pipeline.from_networks(info, networks[UNET], tiny_pipe.vae, stages)
    assert error(back("a red cat", **LATENT).images, plain) < 1e-5


def test_a_dropped_caption_is_zeros(networks: dict[str, nn.Module], tiny_pipe: sdxl.Pipeline) -> None:
    """The loss of two rows, one without its caption, beside `denoising_loss` with zeros in its place."""
    unet = networks[UNET]
    assert isinstance(unet, UNet)
    z, noise = torch.randn(2, 2, 4, 8, 8)
    t, sigma = torch.tensor([300, 300]), torch.tensor([1.0, 1.0])
    ids = [torch.tensor(stage.tokenizer(["a red cat", "a dog"])) for stage in tiny_pipe.text]
    sizes = torch.tensor([[64.0, 48.0, 0.0, 8.0, 64.0, 64.0]] * 2)
    kept = torch.tensor([1.0, 0.0])
    encoders = [networks[TEXT], networks[TEXT_2]]
    encoded = [encoder(each) for encoder, each in zip(encoders, ids, strict=True)]
    context = torch.cat([states for states, _ in encoded], dim=2)
    pooled: Tensor = encoded[1][1].clone()
    context[1], pooled[1] = 0, 0
    embedded = torch.cat([embed_sizes(row, unet.config.size_dim) for row in sizes.tolist()])
    expected = denoising_loss(unet, z, noise, t, sigma, context, torch.cat([pooled, embedded], dim=1))
    assert torch.allclose(captioned_loss(unet, encoders, z, noise, t, sigma, ids, sizes, kept), expected)
