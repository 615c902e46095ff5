"""Tiny ControlNets, unions and T2I-Adapters of diffusers with random weights, none of them zero, for `tiny.UNET`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny
import torch
from diffusers import ControlNetModel, ControlNetUnionModel, T2IAdapter  # tiny has looked for it
from PIL import Image
from safetensors.torch import save_file

HINT = (4, 8, 12, 16)
_OWN = ("sample_size", "up_block_types")
CONTROLNET: dict[str, Any] = {name: value for name, value in tiny.UNET.items() if name not in _OWN} | {
    "conditioning_embedding_out_channels": HINT
}
MID = CONTROLNET | {"transformer_layers_per_block": [0, 0, 1]}
SMALL = CONTROLNET | {"down_block_types": ("DownBlock2D",) * 3, "transformer_layers_per_block": [0, 0, 0]}
UNION = CONTROLNET | {"num_trans_channel": 32, "num_proj_channel": 32, "num_control_type": 6}
PROMAX = UNION | {"num_control_type": 8}


def controlnet(config: dict[str, Any] = CONTROLNET, seed: int = 20) -> ControlNetModel:
    return _seeing(tiny.shake(ControlNetModel(**config), seed))


def union(config: dict[str, Any] = UNION, seed: int = 30) -> ControlNetUnionModel:
    return _seeing(tiny.shake(ControlNetUnionModel(**config), seed))


@torch.no_grad()
def _seeing(net: Any) -> Any:
    """A net to which its image matters: that of random weights is hardly seen beside the latents."""
    net.controlnet_cond_embedding.conv_out.weight *= 30
    return net


def t2i_adapter(channels: int = 3, seed: int = 40) -> T2IAdapter:
    net = T2IAdapter(
        in_channels=channels,
        channels=[32, 64, 64, 64],
        num_res_blocks=2,
        downscale_factor=16,
        adapter_type="full_adapter_xl",
    )
    return tiny.shake(net, seed)  # type: ignore[return-value]


def ldm(net: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """The weights of a ControlNet in ldm's names, made by this test's own rules from diffusers' ones."""
    state, blocks = {}, 2
    for key, value in net.state_dict().items():
        state[prefix + _ldm_name(key, blocks)] = value.clone()
    return state


def _ldm_name(key: str, blocks: int) -> str:
    parts = key.split(".")
    if parts[0] == "controlnet_cond_embedding":
        number = {"conv_in": 0, "conv_out": 2 * len(HINT) - 1}.get(parts[1])
        return f"input_hint_block.{2 * (int(parts[2]) + 1 if number is None else number)}.{parts[-1]}"
    if parts[0] == "controlnet_down_blocks":
        return f"zero_convs.{parts[1]}.0.{parts[2]}"
    if parts[0] == "controlnet_mid_block":
        return f"middle_block_out.0.{parts[1]}"
    if parts[0] in ("time_embedding", "add_embedding"):
        name = "time_embed" if parts[0] == "time_embedding" else "label_emb.0"
        return f"{name}.{0 if parts[1] == 'linear_1' else 2}.{parts[2]}"
    if parts[0] == "conv_in":
        return f"input_blocks.0.0.{parts[1]}"
    if parts[0] == "down_blocks":
        level, kind, number = int(parts[1]), parts[2], int(parts[3])
        first = 1 + level * (blocks + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + blocks}.0.op.{parts[-1]}"
        return f"input_blocks.{first + number}.{'0' if kind == 'resnets' else '1'}.{_inner(kind, parts[4:])}"
    if parts[0] == "mid_block":
        number = {"resnets": 2 * int(parts[2]), "attentions": 1}[parts[1]]
        return f"middle_block.{number}.{_inner(parts[1], parts[3:])}"
    return key


def _inner(kind: str, parts: list[str]) -> str:
    names = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
    names |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    return ".".join([names[parts[0]], *parts[1:]]) if kind == "resnets" else ".".join(parts)


def tencent(net: T2IAdapter, prefix: str = "") -> dict[str, torch.Tensor]:
    """The weights of a T2I-Adapter in Tencent's names."""
    state = {}
    for key, value in net.state_dict().items():
        parts = key.removeprefix("adapter.").split(".")
        if parts[0] == "body":
            level = int(parts[1])
            number = 2 * level + (int(parts[3]) if parts[2] == "resnets" else 0)
            parts = ["body", str(number), *parts[4 if parts[2] == "resnets" else 2 :]]
        state[prefix + ".".join(parts)] = value.clone()
    return state


def save(state: dict[str, torch.Tensor], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def save_folder(net: Any, folder: Path) -> Path:
    net.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())
    return folder


def plain(colour: str = "black", size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def control_lora(unet: Any, rank: int = 4, seed: int = 50) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A Control-LoRA of a UNet's contracting half, and the ControlNet that it stands for, in ldm's names."""
    generator = torch.Generator().manual_seed(seed)
    base = {row.single.removeprefix("model.diffusion_model."): value for row, value in _tensors(unet)}
    whole, low = ldm(controlnet(seed=51)), {"lora_controlnet": torch.zeros(1)}
    for key, value in list(whole.items()):
        is_own = key.startswith(("input_hint_block.", "zero_convs.", "middle_block_out."))
        if is_own or value.ndim == 1:
            low[key] = value
            continue
        up = torch.randn(value.shape[0], rank, generator=generator) / rank
        down = torch.randn(rank, *value.shape[1:], generator=generator) / value[0].numel() ** 0.5
        name = key.removesuffix(".weight")
        low |= {f"{name}.up": up[..., None, None] if value.ndim == 4 else up, f"{name}.down": down}
        whole[key] = base[key] + torch.einsum("or,r...->o...", up, down)
    return low, whole


def _tensors(unet: Any) -> list[tuple[Any, torch.Tensor]]:
    own = dict(unet.tensors())
    return [(row, own[row.ours]) for row in unet.rows]
