"""Small adapter files for the tiny models, with seeded numbers, in every layout that people have."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sdxl.weights import open_checkpoint
from sdxl.weights.keymap import CLIP_L_PREFIX, UNET_PREFIX

RANK, ALPHA = 4, 3.0
ATTENTION = re.compile(r"unet\..*attn\.\d+\.blocks\.\d+\.(self|cross)_attn\.(q|k|v|out)\.weight")
LAYERS = re.compile(r"unet\..*\.weight|text_encoder(_2)?\.layers\..*(attn|ff)\..*\.weight")


@dataclass(frozen=True)
class Layer:
    """A weight of the model: its component, our name, and its module's single-file and diffusers paths."""

    component: str
    ours: str
    single: str
    folder: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.component}.{self.ours}"

    @property
    def seed(self) -> int:
        return sum(map(ord, self.name))


def layers(model: Path, pattern: re.Pattern[str] = LAYERS) -> list[Layer]:
    """The matrices and convolutions of a model whose names match."""
    found = []
    for component, each in open_checkpoint(model).components.items():
        shapes = {name: tuple(tensor.shape) for name, tensor in each.build().state_dict().items()}
        for row in each.rows:
            name = f"{component}.{row.ours}"
            if pattern.fullmatch(name) and len(shapes[row.ours]) >= 2:
                single = row.single.removeprefix(UNET_PREFIX).removeprefix(CLIP_L_PREFIX).rpartition(".")[0]
                found.append(Layer(component, row.ours, single, row.folder.rpartition(".")[0], shapes[row.ours]))
    return found


def pair(layer: Layer, rank: int = RANK) -> tuple[Tensor, Tensor]:
    """The factors of a layer's change, float16 numbers."""
    generator = torch.Generator().manual_seed(layer.seed)
    out, *rest = layer.shape
    scale = 0.6 / (layer.shape[1] * rank) ** 0.5
    up, down = torch.randn(out, rank, generator=generator), scale * torch.randn(rank, *rest, generator=generator)
    if len(rest) > 1:
        up = up[..., None, None]
    return up.half(), down.half()


def product(layer: Layer, rank: int = RANK) -> Tensor:
    """up @ down in float64, of the layer's shape."""
    up, down = pair(layer, rank)
    return (up.double().flatten(1) @ down.double().flatten(1)).reshape(layer.shape)


TEXT_KOHYA = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
TEXT_COMFY = {
    "text_encoder": "text_encoders.clip_l.transformer.",
    "text_encoder_2": "text_encoders.clip_g.transformer.",
}


def kohya(single: bool) -> Callable[[Layer], str]:
    def name(layer: Layer) -> str:
        if layer.component == "unet":
            return "lora_unet_" + (layer.single if single else layer.folder).replace(".", "_")
        return TEXT_KOHYA[layer.component] + layer.folder.replace(".", "_")

    return name


def dotted(layer: Layer) -> str:
    return f"{layer.component}.{layer.folder}"


def own(layer: Layer) -> str:
    """The module's path in our network."""
    return layer.ours.removesuffix(".weight")


def processor(prefix: str) -> Callable[[Layer], str]:
    """The module and the first part of the role: `attn1.processor.to_q_lora`."""

    def name(layer: Layer) -> str:
        module, _, own = layer.folder.removesuffix(".0").rpartition(".")
        return f"{prefix}{module}.processor.{own}_lora"

    return name


def generic(layer: Layer) -> str:
    return (
        f"diffusion_model.{layer.single}" if layer.component == "unet" else TEXT_COMFY[layer.component] + layer.folder
    )


def short(layer: Layer) -> str:
    """Single-file names of the UNet, and the text encoders as `clip_l` and `clip_g`."""
    starts = {"unet": f"unet.{layer.single}", "text_encoder": f"clip_l.{layer.folder}"}
    return starts.get(layer.component, f"clip_g.{layer.folder}")


PLAIN = (".lora_up.weight", ".lora_down.weight")
PEFT = (".lora_B.weight", ".lora_A.weight")
# name of the layout -> (module's name, ends of up and down, whether alpha is a key, which components it has)
LAYOUTS: dict[str, tuple[Callable[[Layer], str], tuple[str, str], bool, str]] = {
    "kohya sgm": (kohya(True), PLAIN, True, "all"),
    "kohya diffusers": (kohya(False), PLAIN, True, "all"),
    "kohya through diffusers": (lambda layer: "unet." + kohya(False)(layer), PLAIN, True, "unet"),
    "half converted": (lambda layer: re.sub(r"_(to_\w)$", r".\1", kohya(False)(layer)), PLAIN, True, "unet"),
    "PEFT in diffusers": (dotted, PEFT, False, "all"),
    "PEFT raw": (lambda layer: f"base_model.model.{layer.folder}", PEFT, False, "unet"),
    "PEFT behind a prefix": (lambda layer: f"unet.base_model.model.{layer.folder}", PEFT, False, "unet"),
    "PEFT without a prefix": (lambda layer: layer.folder, PEFT, False, "unet"),
    "an adapter's name": (dotted, (".lora_B.default.weight", ".lora_A.default.weight"), False, "all"),
    "another adapter's name": (dotted, (".lora_B_1.default_0.weight", ".lora_A_1.default_0.weight"), False, "unet"),
    "diffusers 0.21": (dotted, (".lora.up.weight", ".lora.down.weight"), False, "unet"),
    "lora_linear_layer": (dotted, (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"), False, "all"),
    "attention processors": (processor("unet."), (".up.weight", ".down.weight"), False, "attention"),
    "bare attention processors": (processor(""), (".up.weight", ".down.weight"), False, "attention"),
    "SimpleTuner": (lambda layer: "lycoris_" + layer.folder.replace(".", "_"), PLAIN, True, "unet"),
    "PEFT on our networks": (lambda layer: f"base_model.model.{own(layer)}", PEFT, False, "unet"),
    "LyCORIS on our networks": (lambda layer: "lycoris_" + own(layer).replace(".", "_"), PLAIN, True, "unet"),
    "our names": (lambda layer: f"{layer.component}.{own(layer)}", PEFT, False, "all"),
    "short names of text encoders": (short, PLAIN, True, "all"),
    "ComfyUI": (generic, PEFT, True, "all"),
    "ComfyUI, kohya's roles": (generic, PLAIN, True, "all"),
}


def chosen(model: Path, components: str) -> list[Layer]:
    found = layers(model, ATTENTION if components == "attention" else LAYERS)
    return found if components == "all" else [layer for layer in found if layer.component == "unet"]


def save_layout(name: str, model: Path, path: Path) -> dict[str, Tensor]:
    """A LoRA of a model in one layout; the changes that it means, float64, by our names of the weights."""
    spell, (up_end, down_end), has_alpha, components = LAYOUTS[name]
    state: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}
    for layer in chosen(model, components):
        up, down = pair(layer)
        module = spell(layer)
        state |= {module + up_end: up, module + down_end: down}
        if has_alpha:
            state[module + ".alpha"] = torch.tensor(ALPHA)
        changes[layer.name] = product(layer) * (ALPHA / RANK if has_alpha else 1)
    save(state, path)
    return changes


def save(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any] | None = None) -> Path:
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (metadata or {}).items()}
    save_file({key: value.clone() for key, value in state.items()}, path, metadata=texts)
    return path
