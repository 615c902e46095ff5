"""Levels without a transformer, with a transformer of no blocks, and UNets without a middle block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sdxl.errors import ConfigError
from sdxl.models import TextConfig, UNet, UNetConfig, VisionConfig
from sdxl.models.unet import NoTransformer, SpatialTransformer
from sdxl.text import embed_sizes
from sdxl.weights.diffusers_config import read_unet, write_unet
from sdxl.weights.infer import infer_unet
from sdxl.weights.keymap import unet_rows

CONFIG = UNetConfig(
    channels=(32, 64),
    down=((None,), (0,)),
    mid=0,
    up=((0, 2), (None, None)),
    heads=(1, 1),
    context_dim=24,
    vector_dim=64,
    size_dim=8,
    norm_groups=32,
    sample_size=(8, 8),
)


@pytest.mark.parametrize(
    "change", [{}, {"mid": None}, {"mid": 3}, {"down": ((None,), (2,)), "mid": 2}], ids=["0", "no middle", "3", "2"]
)
@pytest.mark.parametrize("layout", ["single", "folder"])
def test_shapes_tell_the_depths(change: dict[str, Any], layout: str) -> None:
    config = replace(CONFIG, **change)
    shapes = {name: tuple(value.shape) for name, value in UNet(config).state_dict().items()}
    keys = {getattr(row, layout): shapes.pop(row.ours) for row in unet_rows(config)}
    assert not shapes, "every parameter has a row"
    inferred = infer_unet(keys, layout)
    assert (inferred.down, inferred.mid, inferred.up) == (config.down, config.mid, config.up)


def test_a_transformer_of_no_blocks_is_one() -> None:
    """Norm, proj_in and proj_out, which act."""
    torch.manual_seed(0)
    unet = UNet(CONFIG)
    empty = unet.down[1].attn[0]
    assert isinstance(empty, SpatialTransformer)
    assert isinstance(unet.down[0].attn[0], NoTransformer)
    x = torch.randn(1, 64, 4, 4)
    assert not torch.equal(empty(x, iter(())), x)
    assert torch.equal(unet.down[0].attn[0](x, iter(())), x)


@pytest.mark.parametrize("change", [{"down": ((None,), (0,)), "up": ((0, 0), (None, None))}, {"mid": None}])
@torch.no_grad()
def test_such_networks_agree_with_diffusers(change: dict[str, Any], error: Any) -> None:
    diffusers = pytest.importorskip("diffusers")
    config = replace(CONFIG, down=((None,), (2,)), mid=2, up=((2, 2), (None, None)))
    config = replace(config, **(change if "mid" in change else {**change, "mid": 0}))
    data = write_unet(config)
    assert read_unet(data) == config
    torch.manual_seed(1)
    unet = UNet(config).eval()
    theirs = diffusers.UNet2DConditionModel.from_config(data).eval()
    state = unet.state_dict()
    theirs.load_state_dict({row.folder: state[row.ours] for row in unet_rows(config)})
    x, t, context = torch.randn(2, 4, 8, 8), torch.tensor([300.0, 300.0]), torch.randn(2, 77, 24)
    pooled, sizes = torch.randn(2, 16), torch.tensor([[64.0, 48.0, 0.0, 8.0, 64.0, 64.0]]).expand(2, -1)
    vector = torch.cat([pooled, torch.cat([embed_sizes(row.tolist(), 8) for row in sizes])], dim=1)
    added = {"text_embeds": pooled, "time_ids": sizes}
    reference = theirs(x, t, context, added_cond_kwargs=added, return_dict=False)[0]
    assert error(unet(x, t, context, vector), reference) < 1e-5


@pytest.mark.parametrize("count", [0, -32])
def test_no_heads_and_no_groups(count: int) -> None:
    """By 0 nothing divides, and by a negative number all does."""
    for make, name in (
        (lambda: replace(CONFIG, heads=(1, count)), "heads and norm groups of the UNet"),
        (lambda: replace(CONFIG, norm_groups=count), "heads and norm groups of the UNet"),
        (lambda: TextConfig(heads=count), "heads of the text encoder"),
        (lambda: VisionConfig(heads=count), "heads of the image encoder"),
    ):
        with pytest.raises(ConfigError, match=f"{name}: {count} is not in 1 to 65536"):
            make()


def test_a_level_of_both_kinds_is_no_diffusers_config() -> None:
    config = replace(CONFIG, down=((None, 2), (2, 2)), mid=2, up=((2, 2, 2), (None, 2, 2)))
    with pytest.raises(ConfigError, match=r"a level with transformer depths \(None, 2\) cannot be written"):
        write_unet(config)
