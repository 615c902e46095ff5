"""Files of networks for control images: what they are, and what is refused with what would fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from deep import deep_converted, deep_folder, deep_inpainting  # noqa: F401  fixtures
from torch import Tensor

pytest.importorskip("diffusers")
import control_nets

import sdxl
from sdxl.adapters.kind import AdapterKind, read_kind
from sdxl.models import UNetConfig
from sdxl.weights import open_checkpoint
from sdxl.weights.component import Component
from sdxl.weights.control import open_control

State = dict[str, Tensor]
LLLITE = "lllite_unet_middle_block_1_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module")
def unet(tiny_folder: Path) -> Component:
    return open_checkpoint(tiny_folder).components["unet"]


@pytest.fixture(scope="module")
def full() -> State:
    state: State = control_nets.controlnet().state_dict()
    return state


def opened(path: Path, unet: Component) -> Any:
    assert isinstance(unet.config, UNetConfig)
    return open_control(path, unet.config, base=unet)


def changed(state: State, find: str, **changes: Any) -> State:
    """A copy without the keys that begin with `find`, and with tensors of other shapes."""
    return {key: value for key, value in state.items() if not key.startswith(find)} | {
        key: torch.zeros(shape) for key, shape in changes.items()
    }


def filled(*keys: str, shape: tuple[int, ...] = (4, 4)) -> State:
    return {key: torch.zeros(shape) for key in keys}


REFUSED: dict[str, tuple[Any, str]] = {
    "Stable Diffusion 1.x": (
        lambda full: changed(
            full, "add_embedding.", **{"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (64, 768)}
        ),
        r"is a ControlNet of (Stable Diffusion 1\.x|another model).*; give one for SDXL",
    ),
    "Kolors": (
        lambda full: changed(full, "add_embedding.linear_1", **{"add_embedding.linear_1.weight": (128, 5632)}),
        "is a ControlNet of Kolors; give one for SDXL",
    ),
    "Flux": (lambda full: filled("controlnet_x_embedder.weight", "transformer_blocks.0.a"), "is a ControlNet of Flux"),
    "Qwen-Image": (
        lambda full: filled("controlnet_x_embedder.weight", "transformer_blocks.0.img_mlp.net.2.weight"),
        "is a ControlNet of Wan or Qwen-Image; give one for SDXL",
    ),
    "SD 3": (
        lambda full: filled("controlnet_blocks.0.weight", "transformer_blocks.0.attn.to_q.weight"),
        "is a ControlNet of Stable Diffusion 3; give one for SDXL",
    ),
    "InstantID": (
        lambda full: full | filled("image_proj.latents", "ip_adapter.1.to_k_ip.weight"),
        "is InstantID, .*; give a ControlNet for SDXL",
    ),
    "IP-Adapter": (lambda full: filled("image_proj.proj.weight"), "is an IP-Adapter; give it as a reference"),
    "XS": (
        lambda full: filled("down_blocks.0.base_to_ctrl.0.weight"),
        "is a ControlNet-XS; give a ControlNet for SDXL",
    ),
    "PEFT": (
        lambda full: filled("base_model.model.input_hint_block.0.weight", "base_model.model.x.lora_A.weight"),
        "is a Control-LoRA in PEFT's names; give one in Stability's",
    ),
    "difference": (lambda full: full | filled("difference"), "is a difference to a model of Stable Diffusion 1.5"),
    "LLLite of 1.5": (
        lambda full: filled("lllite_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.down.0.weight"),
        r"is a ControlNet-LLLite of Stable Diffusion 1\.x or 2\.x; give one for SDXL",
    ),
    "LLLite of Anima": (
        lambda full: filled("lllite_conditioning1.conv1.weight", "lllite_dit_blocks_0_self_attn_q_proj.down.weight"),
        "is a ControlNet-LLLite of Anima; give one for SDXL",
    ),
    "LLLite of nothing": (
        lambda full: filled("lllite_unet_middle_block_1.down.0.weight"),
        "lllite_unet_middle_block_1.down.0.weight is for no attention that this model has; give .* for SDXL",
    ),
    "LLLite with more": (
        lambda full: control_nets.lllite() | filled("lllite_unet_middle_block_1_proj_in.down.0.weight"),
        "1 tensors do not belong to this .*: lllite_unet_middle_block_1_proj_in.down.0.weight",
    ),
    "LLLite with less": (
        lambda full: changed(control_nets.lllite(), f"{LLLITE}.mid.0.weight"),
        f"tensors of the controlnet are missing: {LLLITE}.mid.0.weight",
    ),
    "LLLite without a rank": (
        lambda full: changed(control_nets.lllite(), f"{LLLITE}.down.0.weight"),
        f"the ControlNet-LLLite is incomplete, '{LLLITE}.down.0.weight' is missing",
    ),
    "LLLite of convolutions": (
        lambda full: control_nets.lllite() | {f"{LLLITE}.down.0.weight": torch.zeros(6, 64, 1, 1)},
        rf"{LLLITE}.down.0.weight has shape \[6, 64, 1, 1\]; expected \[6, 64\]",
    ),
    "LLLite of other widths": (
        lambda full: control_nets.lllite() | control_nets.lllite_place(LLLITE, (4, 4, 2), 1280, torch.Generator()),
        "has an input of width 1280 for mid.attn.0.blocks.0.self_attn.q, and the model's UNet 64; give one for this",
    ),
    "LLLite of other tokens": (
        lambda full: control_nets.lllite() | control_nets.lllite_place(LLLITE, (4, 4, 4), 64, torch.Generator()),
        "has a token for 64 pixels a side for mid.attn.0.blocks.0.self_attn.q, and the model's UNet 32; give one",
    ),
    "LLLite of great kernels": (
        lambda full: control_nets.lllite() | {f"{LLLITE}.conditioning1.0.weight": torch.zeros(1, 1, 65, 1)},
        "kernels of the ControlNet-LLLite for mid.attn.0.blocks.0.self_attn.q: 65 is not in 1 to 64",
    ),
    "SparseCtrl": (
        lambda full: full | filled("down_blocks.0.motion_modules.0.weight"),
        "is SparseCtrl, a ControlNet for videos",
    ),
    "T2I of 1.5": (
        lambda full: {**filled("body.0.block1.weight"), "conv_in.weight": torch.zeros(320, 192, 3, 3)},
        r"is a T2I-Adapter of Stable Diffusion 1\.x; give one for SDXL",
    ),
    "LoRA": (
        lambda full: filled("lora_unet_a.lora_down.weight"),
        "is a LoRA; give it with loras= or --lora, and as the net a ControlNet for SDXL",
    ),
    "nothing": (lambda full: filled("a"), "is no network for control images; give one for SDXL"),
    "superfluous": (lambda full: full | filled("own.weight"), "1 tensors do not belong to this .*: own.weight"),
    "missing": (
        lambda full: changed(full, "controlnet_down_blocks.3.weight"),
        r"tensors of the controlnet are missing: controlnet_down_blocks\.3\.weight",
    ),
    "other widths": (
        lambda full: changed(full, "controlnet_mid_block.weight", **{"controlnet_mid_block.weight": (64, 60, 1, 1)}),
        r"controlnet_mid_block\.weight has shape \[64, 60, 1, 1\]; expected \[64, 64, 1, 1\]",
    ),
    "other context": (
        lambda full: {
            key: value[:, :40] if re.search(r"attn2\.to_[kv]\.weight", key) else value for key, value in full.items()
        },
        "has a context of width 40, and the model's UNet 48; give one for this model",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str, full: State, unet: Component, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    path = control_nets.save(make(full), tmp_path / "net.safetensors")
    with pytest.raises(sdxl.CheckpointError, match=message) as caught:
        opened(path, unet)
    assert str(path) in str(caught.value)


def test_pickles_and_other_classes_are_refused(full: State, unet: Component, tmp_path: Path) -> None:
    pickle = tmp_path / "net.pth"
    torch.save({"a": 1}, pickle)
    with pytest.raises(sdxl.CheckpointError, match="is a pickle"):
        opened(pickle, unet)
    folder = control_nets.save_folder(control_nets.controlnet(), tmp_path / "net")
    (folder / "config.json").write_text('{"_class_name": "FluxControlNetModel"}')
    with pytest.raises(sdxl.CheckpointError, match="holds a 'FluxControlNetModel'; expected ControlNetModel"):
        opened(folder, unet)


def test_the_folder_of_instant_id_is_refused(unet: Component, tmp_path: Path) -> None:
    folder = control_nets.save_folder(control_nets.controlnet(), tmp_path / "ControlNetModel")
    opened(folder, unet)
    (tmp_path / "ip-adapter.bin").write_bytes(b"")
    with pytest.raises(sdxl.CheckpointError, match="is the ControlNet of InstantID"):
        opened(folder, unet)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("global_pool_conditions", "true", "global_pool_conditions is True; only False is supported"),
        ("conditioning_channels", "4", "conditioning_channels is 4; only 3 is supported"),
        ("controlnet_conditioning_channel_order", '"hsv"', "channel_order is 'hsv'; it must be rgb or bgr"),
    ],
)
def test_what_a_config_says_and_is_not_supported(
    name: str, value: str, message: str, unet: Component, tmp_path: Path
) -> None:
    import json

    folder = control_nets.save_folder(control_nets.controlnet(), tmp_path / "net")
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(data | {name: json.loads(value)}))
    with pytest.raises(sdxl.CheckpointError, match=message):
        opened(folder, unet)


# ---- inspect ---------------------------------------------------------------------------------------------------------


def kinds(unet: Component) -> dict[str, tuple[Any, str]]:
    return {
        "full": (control_nets.controlnet().state_dict(), "ControlNet of SDXL, full"),
        "mid": (control_nets.controlnet(control_nets.MID).state_dict(), "ControlNet of SDXL, mid"),
        "small": (control_nets.ldm(control_nets.controlnet(control_nets.SMALL)), "ControlNet of SDXL, small"),
        "union": (control_nets.union().state_dict(), "ControlNet-Union of SDXL, 6 types"),
        "promax": (control_nets.union(control_nets.PROMAX).state_dict(), "ControlNet-Union of SDXL, 8 types"),
        "t2i": (control_nets.t2i_adapter().state_dict(), "T2I-Adapter of SDXL, 3 channels"),
        "tencent": (control_nets.tencent(control_nets.t2i_adapter(1)), "T2I-Adapter of SDXL, 1 channel"),
        "lora": (control_nets.control_lora(unet)[0], "Control-LoRA of SDXL, rank 4"),
        "lllite": (control_nets.lllite(), "ControlNet-LLLite of SDXL, rank 6, 32 projections"),
        "sd15": (REFUSED["Kolors"][0](control_nets.controlnet().state_dict()), "a ControlNet of Kolors"),
    }


def test_inspect_names_each_kind(unet: Component, tmp_path: Path) -> None:
    for name, (state, kind) in kinds(unet).items():
        path = control_nets.save(state, tmp_path / f"{name}.safetensors")
        report = sdxl.inspect(path)
        types = {"union": 6, "promax": 8}.get(name, 0)
        assert read_kind(path) == (None if name == "sd15" else AdapterKind("control", types))
        assert isinstance(report, sdxl.weights.Report)
        assert report.kind == kind
        assert not (report.missing or report.unexpected or report.wrong)
        assert sum(part.tensors for part in report.parts.values()) == len(state)
    folder = control_nets.save_folder(control_nets.union(control_nets.PROMAX), tmp_path / "folder")
    assert getattr(sdxl.inspect(folder), "kind", None) == "ControlNet-Union of SDXL, 8 types"
    assert read_kind(folder) == AdapterKind("control", 8)


# ---- Control-LoRA ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["folder", "single"])
@torch.no_grad()
def test_a_control_lora_is_the_controlnet_that_it_stands_for(
    layout: str, unet: Component, converted: Path, tmp_path: Path, error: Any
) -> None:
    """Within the rounding of a sum of products; the weights of the base come from either layout."""
    from sdxl.pipeline.network_loading import load
    from sdxl.runtime.placement import Placement

    base = unet if layout == "folder" else open_checkpoint(converted).components["unet"]
    low, whole = control_nets.control_lora(unet)
    first = opened(control_nets.save(low, tmp_path / "low.safetensors"), base)
    second = opened(control_nets.save(whole, tmp_path / "whole.safetensors"), base)
    place = Placement(torch.device("cpu"), torch.float32, torch.float32)
    states = [load(each.component, place, each.changes).state_dict() for each in (first, second)]
    assert states[0].keys() == states[1].keys()
    assert max(error(states[0][name], states[1][name]) for name in states[1]) < 1e-6
    assert first.kind == "Control-LoRA"
    again = load(unet, place).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in unet.tensors()), "the base is as it was"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_blocks.1.0.in_layers.2.up": (32, 3, 1, 1)}, "do not change a weight of shape"),
        (
            {
                f"input_blocks.1.0.in_layers.0.{name}": size
                for name, size in (("weight", None), ("up", 32), ("down", 1))
            },
            r"up \[32\] and .*down \[1\] do not change a weight of shape \[32\]",
        ),
        ({"time_embed.0.down": None}, "is incomplete, .*time_embed.0.down"),
        ({"input_blocks.0.0.bias": None}, "is incomplete, .*input_blocks.0.0.bias"),
        ({"more.up": (3, 3)}, "do not belong to this SDXL model: more.up"),
    ],
)
def test_a_damaged_control_lora(change: dict[str, Any], message: str, unet: Component, tmp_path: Path) -> None:
    low, _ = control_nets.control_lora(unet)
    for key, shape in change.items():
        low.pop(key, None)
        low |= {} if shape is None else {key: torch.zeros(shape)}
    with pytest.raises(sdxl.CheckpointError, match=message):
        opened(control_nets.save(low, tmp_path / "low.safetensors"), unet)


def test_a_control_lora_needs_the_files_of_a_base_model(unet: Component, inpainting_pipe: Any, tmp_path: Path) -> None:
    path = control_nets.save(control_nets.control_lora(unet)[0], tmp_path / "low.safetensors")
    assert isinstance(unet.config, UNetConfig)
    with pytest.raises(sdxl.CheckpointError, match="a Control-LoRA changes the weights of the model's files"):
        open_control(path, unet.config)
    with pytest.raises(sdxl.CheckpointError, match="this UNet takes 9 channels"):
        inpainting_pipe.plan(
            sdxl.Request(
                "a",
                image=control_nets.plain(),
                mask=control_nets.plain("white"),
                control=sdxl.Control(path, control_nets.plain()),
            )
        )
