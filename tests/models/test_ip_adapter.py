"""Image tokens, and their keys and values, against diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_reference
import torch
from deep import deep_reference  # noqa: F401  fixtures
from safetensors.torch import save_file

from sdxl.adapters.ip_adapter import open_ip_adapter, places
from sdxl.models.ip_adapter import file_order
from sdxl.models.published import BASE
from sdxl.pipeline.network_loading import load
from sdxl.runtime.placement import Placement
from sdxl.weights.diffusers_config import read_unet

F32, CPU = torch.float32, torch.device("cpu")
TOLERANCE = 1e-5
WIDTHS = places(read_unet(tiny.UNET))


@pytest.mark.parametrize("kind", ["plain ViT-H", "plain bigG", "plus"])
@torch.no_grad()
def test_tokens_keys_and_values(kind: str, tmp_path: Path, error: Any) -> None:
    path = tiny_reference.save(tmp_path, kind, WIDTHS)
    ours: Any = load(open_ip_adapter(path), Placement(CPU, F32, F32))
    pipe = tiny_reference.reference_pipe([path], "bigG" if "bigG" in kind else "ViT-H")
    project = pipe.unet.encoder_hid_proj.image_projection_layers[0]
    generator = torch.Generator().manual_seed(3)
    shape = (2, 5, ours.config.image_dim) if kind == "plus" else (2, ours.config.image_dim)
    encoded = torch.randn(shape, generator=generator)
    tokens = project(encoded)
    assert error(ours.project(encoded), tokens) < TOLERANCE
    side_by_side = tokens.flatten(0, 1)[None]
    theirs = {
        name.removesuffix(".attn2.processor"): attention
        for name, attention in pipe.unet.attn_processors.items()
        if name.endswith("attn2.processor")
    }
    names = file_order(read_unet(tiny.UNET).block_names())
    for name, (keys, values) in zip(names, ours([each[None] for each in encoded]), strict=True):
        place = theirs[diffusers_name(name)]
        assert error(keys, place.to_k_ip[0](side_by_side)) < TOLERANCE
        assert error(values, place.to_v_ip[0](side_by_side)) < TOLERANCE


def diffusers_name(block: str) -> str:
    *level, _, n, _, k = block.split(".")
    half = "mid_block" if level == ["mid"] else f"{level[0]}_blocks.{level[1]}"
    return f"{half}.attentions.{n}.transformer_blocks.{k}"


def test_numbers_of_the_published_files() -> None:
    """The landmarks of an SDXL adapter: 1 to 47 down, 49 to 119 up, 121 to 139 in the middle; 640 wide where stated."""
    names = file_order(BASE.unet.block_names())
    assert names[0] == "down.1.attn.0.blocks.0"
    assert (names[23], names[24]) == ("down.2.attn.1.blocks.9", "up.0.attn.0.blocks.0")
    assert (names[59], names[60]) == ("up.1.attn.2.blocks.1", "mid.attn.0.blocks.0")
    assert [names.index(f"{part}.blocks.0") for part in ("up.0.attn.1", "down.2.attn.1")] == [34, 14]
    widths = places(BASE.unet)
    assert [n for n, width in enumerate(widths) if width == 640] == [0, 1, 2, 3, *range(54, 60)]
    assert len(widths) == 70


def test_bytes_of_the_published_files() -> None:
    """The tensors of an adapter with SDXL's shapes take what the published files take, but for their headers."""
    from sdxl.models.vision_config import IPAdapterConfig
    from sdxl.weights.component import Component
    from sdxl.weights.container import Weights
    from sdxl.weights.reference_rows import ip_adapter_rows

    widths = tuple(places(BASE.unet))
    plus = IPAdapterConfig(1280, 2048, widths, 16, depth=4, inner_dim=1280, heads_dim=1280, ff_dim=5120)
    published = {
        IPAdapterConfig(1280, 2048, widths): 702_585_376,
        IPAdapterConfig(1024, 2048, widths): 698_391_064,
        plus: 847_517_512,
    }
    for config, size in published.items():
        component = Component("ip_adapter", config, list(ip_adapter_rows(config)), "folder", Weights([]))
        state = component.build().state_dict()
        assert {row.ours for row in component.rows} == state.keys()
        total = 2 * sum(value.numel() for value in state.values())
        assert 0 < size - total < 30_000


def test_keys_of_training_scripts(tmp_path: Path) -> None:
    state = tiny_reference.adapter("plus", WIDTHS)
    renamed = {key.replace("ip_adapter.", "adapter_modules."): value for key, value in state.items()}
    save_file(renamed, tmp_path / "a.safetensors")
    component = open_ip_adapter(tmp_path / "a.safetensors")
    assert component.config.is_plus  # type: ignore[union-attr]
    assert len(dict(component.tensors())) == len(state)
