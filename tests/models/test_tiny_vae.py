"""The tiny VAE against diffusers' AutoencoderTiny, float32, within 1e-5, from every layout of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_vae_files import SMALL, reference, save_all

from sdxl.errors import ConfigError
from sdxl.models.published import BASE
from sdxl.models.tiny_vae_config import TinyVAEConfig
from sdxl.pipeline.network_loading import load
from sdxl.runtime.onednn import can_pack
from sdxl.runtime.placement import Placement
from sdxl.weights.checkpoint import open_component

F32, CPU = torch.float32, torch.device("cpu")
PLAIN = Placement(CPU, F32, F32)


@pytest.fixture(scope="module", params=["small", "published"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Path]]:
    model = reference(**(SMALL if request.param == "small" else {}))
    return model, save_all(model, tmp_path_factory.mktemp("tiny_vae"))


def opened(path: Path, at: Placement = PLAIN) -> Any:
    return load(open_component(path, "vae", BASE), at)


def test_equals_diffusers(files: tuple[Any, dict[str, Path]], error: Any) -> None:
    model, paths = files
    vae, generator = opened(paths["folder"]), torch.Generator().manual_seed(1)
    z = 3 * torch.randn(2, 4, 5, 7, generator=generator)  # beyond 3, where latents are bent
    x = 2 * torch.rand(2, 3, 40, 56, generator=generator) - 1
    with torch.no_grad():
        assert error(vae.decode(z), model.decode(z).sample) < 1e-5
        assert error(vae.encode(x), model.encode(x).latents) < 1e-5


@pytest.mark.parametrize("layout", ["file", "decoder", "both"])
def test_layouts_are_equal_bit_for_bit(files: tuple[Any, dict[str, Path]], layout: str) -> None:
    _, paths = files
    whole, vae = opened(paths["folder"]), opened(paths[layout])
    z, x = torch.randn(1, 4, 4, 4), torch.rand(1, 3, 32, 32)
    assert vae.config.decoder_blocks == whole.config.decoder_blocks
    assert torch.equal(vae.decode(z), whole.decode(z))
    assert vae.config.has_encoder == (layout != "decoder")
    if vae.config.has_encoder:
        assert vae.config.encoder_blocks == whole.config.encoder_blocks
        assert torch.equal(vae.encode(x), whole.encode(x))


def test_published_layout_is_the_default(files: tuple[Any, dict[str, Path]]) -> None:
    model, paths = files
    config = open_component(paths["decoder"], "vae", BASE).config
    assert isinstance(config, TinyVAEConfig)
    if model.config.decoder_block_out_channels[0] == 64:
        assert config == TinyVAEConfig(encoder_blocks=None)
        assert open_component(paths["folder"], "vae", BASE).config == TinyVAEConfig()


@pytest.mark.skipif(not can_pack(CPU), reason="this torch has no packed layers")
def test_prepacked_and_plain_are_equal(files: tuple[Any, dict[str, Path]], error: Any) -> None:
    _, paths = files
    z = torch.randn(1, 4, 4, 4)
    packed = opened(paths["decoder"], Placement(CPU, F32, F32, packed=True))
    assert error(packed.decode(z), opened(paths["decoder"]).decode(z)) < 1e-5


def test_streams(files: tuple[Any, dict[str, Path]]) -> None:
    _, paths = files
    z = torch.randn(1, 4, 4, 4)
    streamed = opened(paths["decoder"], Placement(CPU, F32, F32, streamed=True))
    assert torch.equal(streamed.decode(z), opened(paths["decoder"]).decode(z))


def test_trains(files: tuple[Any, dict[str, Path]]) -> None:
    """What is computed in place takes no gradient away."""
    model, paths = files
    vae = load(open_component(paths["folder"], "vae", BASE), PLAIN, trainable=True)
    z = torch.randn(1, 4, 4, 4)
    vae.decode(z).square().mean().backward()
    model.zero_grad()
    model.decode(z).sample.square().mean().backward()
    ours = dict(vae.named_parameters())["decoder.levels.0.blocks.0.conv1.weight"].grad
    theirs = model.decoder.layers[2].conv[0].weight.grad
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-6 * float(theirs.abs().max()) + 1e-9)


def test_no_such_levels() -> None:
    with pytest.raises(ConfigError, match="encoder has 2 levels and its decoder 4"):
        TinyVAEConfig(encoder_blocks=(1, 1))
    with pytest.raises(ConfigError, match="channels of the tiny VAE"):
        TinyVAEConfig(width=10**6)
