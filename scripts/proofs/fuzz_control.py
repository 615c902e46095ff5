"""Proof: damage files of networks for control images in thousands of ways, and use each: it loads, or raises
`SDXLError`, within 2 s.

    make proof-fuzz      # with the other fuzzers
    python scripts/proofs/fuzz_control.py --seed 1 --only 471   # one file again, with its traceback

They are damaged as adapters are (`fuzz_adapter.py`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from fuzz_adapter import run
from torch import Tensor, nn

import sdxl
from sdxl.models.control_config import ControlNetConfig, T2IAdapterConfig
from sdxl.models.controlnet import ControlNet
from sdxl.models.t2i_adapter import T2IAdapter
from sdxl.models.unet_config import UNetConfig
from sdxl.pipeline.network_loading import load
from sdxl.runtime.placement import Placement
from sdxl.weights.checkpoint import open_checkpoint
from sdxl.weights.component import Component
from sdxl.weights.control import open_control
from sdxl.weights.control_keys import controlnet_rows, t2i_adapter_rows
from sdxl.weights.keymap import Row
from sdxl.weights.ops import Op

HINT = (4, 8, 12, 16)
AT = Placement(torch.device("cpu"), torch.float32, torch.float32)
THREE = UNetConfig(channels=(32, 32, 64), heads=(1, 1, 1))  # a T2I-Adapter has three levels
OF_THREE = ("t2i", "tencent", "lllite")
Tensors = dict[str, Tensor]


def networks(model: Path) -> dict[str, tuple[Tensors, dict[str, str]]]:
    """Files of every kind for a model: tensors and header."""
    torch.manual_seed(0)
    unet = _unet(model)
    plain, union = ControlNetConfig(unet, HINT), ControlNetConfig(unet, HINT, types=6, type_dim=8)
    net, several = ControlNet(plain), ControlNet(union)
    small = T2IAdapterConfig(3, (*THREE.channels, THREE.channels[-1]))  # type: ignore[arg-type]
    adapter, header = T2IAdapter(small), {"x": "y"}
    ldm = _named(net, controlnet_rows(plain), "single")
    files = {
        "folder": _named(net, controlnet_rows(plain), "folder"),
        "ldm": {f"control_model.{key}": tensor for key, tensor in ldm.items()},
        "union": _named(several, controlnet_rows(union), "folder"),
        "tencent": _named(adapter, t2i_adapter_rows(small), "single"),
        "t2i": {f"adapter.{key}": each for key, each in _named(adapter, t2i_adapter_rows(small), "folder").items()},
        "low": _low_rank(ldm),
        "lllite": _lllite(),
    }
    return {kind: (tensors, header) for kind, tensors in files.items()}


def _named(net: nn.Module, rows: object, layout: str) -> Tensors:
    """The weights of a network under a layout's names."""
    state, named = net.state_dict(), dict[str, Tensor]()
    for row in rows:  # type: ignore[attr-defined]
        assert isinstance(row, Row)
        value = state[row.ours].detach()
        named[getattr(row, layout)] = torch.cat([value] * 3) if row.folder_op is Op.V else value
    return named


def _low_rank(ldm: Tensors) -> Tensors:
    """A Control-LoRA of the same network."""
    low = {"lora_controlnet": torch.zeros(1)}
    for key, value in ldm.items():
        if value.ndim == 1 or key.startswith(("input_hint_block.", "zero_convs.", "middle_block_out.")):
            low[key] = value
            continue
        name = key.removesuffix(".weight")
        low |= {f"{name}.up": torch.randn(len(value), 2), f"{name}.down": torch.randn(2, *value.shape[1:])}
    return low


def _lllite() -> Tensors:
    """A ControlNet-LLLite for three projections, of rank 4 with features of width 6."""
    shapes: dict[str, tuple[int, ...]] = {}
    for place, dim, kernels in (
        ("input_blocks_4_1_transformer_blocks_0_attn1_to_k", 32, (4, 4)),
        ("input_blocks_7_1_transformer_blocks_1_attn2_to_q", 64, (4, 4, 2)),
        ("middle_block_1_transformer_blocks_0_attn1_to_v", 64, (4, 4, 2)),
    ):
        widths = (3, *[2] * (len(kernels) - 1), 6)
        own: dict[str, tuple[int, ...]] = {
            f"conditioning1.{2 * n}": (widths[n + 1], widths[n], side, side) for n, side in enumerate(kernels)
        }
        own |= {"down.0": (4, dim), "mid.0": (4, 10), "up.0": (dim, 4)}
        for layer, shape in own.items():
            name = f"lllite_unet_{place}.{layer}"
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {key: torch.randn(shape) for key, shape in shapes.items()}


def _component(model: Path) -> Component:
    return open_checkpoint(model).components["unet"]


def _unet(model: Path) -> UNetConfig:
    config = _component(model).config
    assert isinstance(config, UNetConfig)
    return config


def use(kind: str, path: Path, model: Path) -> None:
    """All that is done with a network: the report, its opening for a model, and its weights in memory."""
    try:
        sdxl.inspect(path)
    finally:
        like = THREE if kind in OF_THREE else _unet(model)
        opened = open_control(path, like, base=_component(model))
        load(opened.component, AT, opened.changes)


if __name__ == "__main__":
    run(__doc__, "files of networks for control images", networks, use)
