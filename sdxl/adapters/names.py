"""Which weights of a model a module of an adapter file means: made from the model's own table of names.

Adapter files name a module by its single-file or diffusers path, often with `.` replaced by `_`. Such names cannot be
split again by rule (`ff_net_0_proj`), so every path is flattened and looked up. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..weights.keymap import TEXT, TEXT_2, UNET, UNET_PREFIX, Row

# the beginnings of flattened names, and the component whose names follow; longer ones are tried first
_PREFIXES = {
    "lora_unet_": UNET,
    "lycoris_": UNET,
    "diffusion_model_": UNET,
    "model_diffusion_model_": UNET,
    "unet_": UNET,
    "": UNET,
    "lora_te1_": TEXT,
    "clip_l_": TEXT,
    "text_encoder_": TEXT,
    "text_encoders_clip_l_transformer_": TEXT,
    "lora_te2_": TEXT_2,
    "clip_g_": TEXT_2,
    "text_encoder_2_": TEXT_2,
    "text_encoders_clip_g_transformer_": TEXT_2,
}
_NOISE = re.compile(
    r"^(?:transformer_)?base_model_model_|(?<=^unet_)base_model_model_|^unet_(?=lora_unet_)|_processor(?=_to_)"
)


@dataclass(frozen=True)
class Target:
    """A module of a model: its component, and its path under our names."""

    component: str
    path: str

    def weight(self, leaf: str) -> str:
        """The name of its weight or bias, as `Pipeline.change_weights` has it."""
        return f"{self.component}.{self.path}.{leaf}"


class NameTable:
    """The names of all modules of a model; `rows` are those of its components."""

    def __init__(self, rows: Mapping[str, list[Row]]) -> None:
        # kohya's name of an only text encoder: SD 1.x has one, and SDXL's refiner
        prefixes = _PREFIXES | ({} if TEXT in rows else {"lora_te_": TEXT_2})
        self._prefixes = sorted(prefixes.items(), key=lambda each: -len(each[0]))
        self.targets: dict[str, dict[str, Target]] = {
            component: dict(_names(component, rows[component]))
            for component in (UNET, TEXT, TEXT_2)
            if component in rows
        }

    def find(self, module: str) -> Target | None:
        """The module that a name of a file means; None if there is none."""
        flat = _NOISE.sub("", module.replace(".", "_"))
        flat = _NOISE.sub("", flat)  # one may stand behind another
        for prefix, component in self._prefixes:
            target = self.targets.get(component, {}).get(flat.removeprefix(prefix))
            if flat.startswith(prefix) and target is not None:
                return target
        return None


def names_text(module: str) -> bool:
    """Whether a name of a file is that of a text encoder's module, of whatever model."""
    return module.replace(".", "_").startswith(("lora_te", "text_encoder", "clip_l", "clip_g"))


def _names(component: str, rows: list[Row]) -> Iterator[tuple[str, Target]]:
    """Each module under its flattened names."""
    for row in rows:
        target = Target(component, row.ours.rpartition(".")[0])
        yield target.path.replace(".", "_"), target  # of what PEFT and LyCORIS trained on our networks
        folder = row.folder.rpartition(".")[0].replace(".", "_")
        if component == UNET:
            yield row.single.removeprefix(UNET_PREFIX).rpartition(".")[0].replace(".", "_"), target
            names = [folder, re.sub(r"(attn\d_to_out)_0$", r"\1", folder)]
        else:
            old = re.sub(r"(self_attn)_(?:(q|k|v)_proj|(out)_proj)$", lambda m: f"{m[1]}_to_{m[2] or m[3]}", folder)
            names = [name for each in (folder, old) for name in (each, each.removeprefix("text_model_"))]
        for name in names:
            yield name, target
