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


# ---- ControlNet-LLLite, in kohya's names -----------------------------------------------------------------------------

# diffusers' transformers of `tiny.UNET` by the names of kohya's files, with the level and the count of blocks
LLLITE_PLACES = {
    "input_blocks_4_1": ("down_blocks.1.attentions.0", 1, 1),
    "input_blocks_5_1": ("down_blocks.1.attentions.1", 1, 1),
    "input_blocks_7_1": ("down_blocks.2.attentions.0", 2, 2),
    "input_blocks_8_1": ("down_blocks.2.attentions.1", 2, 2),
    "middle_block_1": ("mid_block.attentions.0", 2, 2),
    "output_blocks_0_1": ("up_blocks.0.attentions.0", 2, 2),
    "output_blocks_4_1": ("up_blocks.1.attentions.1", 1, 1),
}
LLLITE_LAYERS = ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn2_to_q")
# kernels of the encoder: those of kohya's depths 1, 2 and 3
LLLITE_KERNELS = ((4, 2), (4, 4), (4, 4, 2))


def lllite(seed: int = 60, expanding: bool = False, strength: float = 3.0) -> dict[str, torch.Tensor]:
    """A ControlNet-LLLite of rank 6 with features of width 8, for the contracting half and the middle as published ones
    are, or for the `expanding` half too.
    """
    generator, state = torch.Generator().manual_seed(seed), dict[str, torch.Tensor]()
    for place, (_, level, count) in LLLITE_PLACES.items():
        if place.startswith("output") and not expanding:
            continue
        for n in range(count):
            for layer in LLLITE_LAYERS:
                name = f"lllite_unet_{place}_transformer_blocks_{n}_{layer}"
                state |= lllite_place(name, LLLITE_KERNELS[level], 64, generator, strength)
    return state


def lllite_place(
    name: str, kernels: tuple[int, ...], dim: int, generator: torch.Generator, strength: float = 3.0
) -> dict[str, torch.Tensor]:
    widths = [3, *[4] * (len(kernels) - 1), 8]
    shapes: dict[str, tuple[int, ...]] = {
        f"conditioning1.{2 * n}": (widths[n + 1], widths[n], kernel, kernel) for n, kernel in enumerate(kernels)
    }
    shapes |= {"down.0": (6, dim), "mid.0": (6, 14), "up.0": (dim, 6)}
    state = {}
    for key, shape in shapes.items():
        weight = torch.randn(shape, generator=generator) / torch.Size(shape[1:]).numel() ** 0.5
        state[f"{name}.{key}.weight"] = (weight * (strength if key == "up.0" else 1)).half().float()
        state[f"{name}.{key}.bias"] = (0.1 * torch.randn(shape[0], generator=generator)).half().float()
    return state


def lllite_features(state: dict[str, torch.Tensor], name: str, image: torch.Tensor) -> torch.Tensor:
    """The tokens of an image (B, 3, H, W) in 0..1 for a place."""
    x, n = image * 2 - 1, 0
    while f"{name}.conditioning1.{n}.weight" in state:
        weight = state[f"{name}.conditioning1.{n}.weight"].to(x.dtype)
        x = torch.relu(x) if n else x
        x = torch.nn.functional.conv2d(
            x, weight, state[f"{name}.conditioning1.{n}.bias"].to(x.dtype), stride=weight.shape[-1]
        )
        n += 2
    return x.flatten(2).transpose(1, 2)


def lllite_input(
    state: dict[str, torch.Tensor], name: str, x: torch.Tensor, features: torch.Tensor, scale: float
) -> torch.Tensor:
    """What the projection of a place takes in the place of x."""
    own = {key: state[f"{name}.{key}"].to(x.dtype) for key in _LLLITE_LINEAR}
    h = torch.relu(x @ own["down.0.weight"].T + own["down.0.bias"])
    both = torch.cat([features.to(x.dtype).repeat(len(x) // len(features), 1, 1), h], dim=2)
    h = torch.relu(both @ own["mid.0.weight"].T + own["mid.0.bias"])
    return x + scale * (h @ own["up.0.weight"].T + own["up.0.bias"])


_LLLITE_LINEAR = [f"{layer}.0.{leaf}" for layer in ("down", "mid", "up") for leaf in ("weight", "bias")]
