"""Tells networks for control images apart by the keys and shapes of their files. Imports no torch."""

from __future__ import annotations

import itertools
import re
from math import gcd

from ..models.control_config import ControlNetConfig, T2IAdapterConfig
from ..models.unet_config import UNetConfig
from .families import CONTEXTS, SD1, early_attention, family_of
from .identify import Shapes, foreign, strip
from .infer import HEAD_DIM, NORM_GROUPS, count_of, depth_of, folder_levels, middle_of, single_levels

NAME = "controlnet"  # of the component
CONTROLNET, UNION, CONTROL_LORA, T2I_ADAPTER = "ControlNet", "ControlNet-Union", "Control-LoRA", "T2I-Adapter"
LLLITE, LLLITE_PREFIX = "ControlNet-LLLite", "lllite_unet_"
PREFIXES = ("", "control_model.")
MARKER = "lora_controlnet"
_KOLORS_VECTOR = 5632
_NAMES = {
    "single": ("input_blocks.0.0", "in_layers.2", "label_emb.0.0"),
    "folder": ("conv_in", "conv1", "add_embedding.linear_1"),
}
_SDXL = "give one for SDXL"
# a pattern of keys, the name of what has them, and what to do
_FOREIGN = (
    (r"base_model\.model\..*", "a Control-LoRA in PEFT's names", "give one in Stability's, with lora_controlnet"),
    (
        r".*(base_to_ctrl|ctrl_to_base|control_to_base|enc_zero_convs|dec_zero_convs|down_connections).*",
        "a ControlNet-XS",
        "give a ControlNet for SDXL",
    ),
    (r".*motion_modules\..*", "SparseCtrl, a ControlNet for videos", _SDXL),
    (r"difference", "a difference to a model of Stable Diffusion 1.5", "give a whole ControlNet for SDXL"),
    (r"lllite_(dit_|conditioning1\.).*", "a ControlNet-LLLite of Anima", _SDXL),
)
_ELSEWHERE = dict.fromkeys(
    ("a LoRA", "a LyCORIS adapter"), "give it with loras= or --lora, and as the net a ControlNet for SDXL"
)
_REFERENCE = re.compile(r"(image_proj|ip_adapter|adapter_modules)\..*|.*\.to_[kv]_ip\..*")


def layout_of(shapes: Shapes) -> str | None:
    """The layout of a ControlNet's keys without their prefix; None for another file."""
    if "zero_convs.0.0.weight" in shapes:
        return "single"
    return "folder" if "controlnet_cond_embedding.conv_in.weight" in shapes else None


def prefix_of(shapes: Shapes) -> str:
    """What stands before the keys of a ControlNet or a T2I-Adapter in Tencent's names."""
    prefixes = (*PREFIXES, "adapter.")
    return next((each for each in reversed(prefixes) if each and any(key.startswith(each) for key in shapes)), "")


def is_control(shapes: Shapes) -> bool:
    """Whether a file is a network for control images, of any family."""
    bare = strip(shapes, prefix_of(shapes))
    is_known = MARKER in shapes or layout_of(bare) is not None or t2i_layout(bare) is not None
    return is_known or any(key.startswith(("control_model.", "controlnet_", "lllite_")) for key in shapes)


def is_lllite(shapes: Shapes) -> bool:
    """Whether a file is a ControlNet-LLLite of a UNet."""
    return any(key.startswith(LLLITE_PREFIX) for key in shapes)


def kind_of(shapes: Shapes) -> str | None:
    """The kind of a network for control images; None for any other file, and for those of other models."""
    if refusal(shapes) is not None:
        return None
    if is_lllite(shapes):
        return LLLITE
    if MARKER in shapes:
        return CONTROL_LORA
    bare = strip(shapes, prefix_of(shapes))
    if layout_of(bare) is not None:
        return UNION if "task_embedding" in bare else CONTROLNET
    return T2I_ADAPTER if t2i_layout(bare) is not None else None


def refusal(shapes: Shapes) -> tuple[str, str] | None:
    """The name of a file that is no network for SDXL's control images, and what to do; None if it may be one."""
    bare = strip(shapes, prefix_of(shapes))
    reference = next((key for key in bare if _REFERENCE.fullmatch(key)), None)
    if reference is not None:
        if layout_of(bare) is not None:
            return "InstantID, a ControlNet with an IP-Adapter for faces", "give a ControlNet for SDXL"
        return "an IP-Adapter", "give it as a reference, or a ControlNet for SDXL"
    for pattern, name, advice in _FOREIGN:
        if any(re.fullmatch(pattern, key) for key in bare):
            return name, advice
    if found := family_of(bare):
        return f"a ControlNet of {found[0]}", _SDXL
    if is_lllite(shapes):
        return (f"a ControlNet-LLLite of {SD1} or 2.x", _SDXL) if early_attention(shapes) else None
    if MARKER in shapes:
        return _family(bare, "a Control-LoRA")
    if layout_of(bare) is not None:
        return _family(bare, "a ControlNet")
    if t2i_layout(bare) is not None:
        shape = bare["conv_in.weight"]
        if len(shape) == 4 and shape[1] in (64, 192):
            return f"a T2I-Adapter of {SD1}", _SDXL
        return None
    name = foreign(shapes) or "no network for control images"
    return name, _ELSEWHERE.get(name, _SDXL)


def _family(shapes: Shapes, what: str) -> tuple[str, str] | None:
    """A network of another family than SDXL, known by the vector and the context that it takes."""
    vectors = [shapes[key] for key in shapes if key.startswith(("label_emb.0.0.", "add_embedding.linear_1."))]
    widths = {shape[1] for shape in vectors if len(shape) >= 2}
    if _KOLORS_VECTOR in widths:
        return f"{what} of Kolors", _SDXL
    if vectors:
        return None
    contexts = {shapes[key][1] for key in shapes if ".attn2.to_k." in key and len(shapes[key]) == 2}
    known = [CONTEXTS[width] for width in contexts if width in CONTEXTS]
    return f"{what} of {known[0] if known else 'another model, without the vector of SDXL'}", _SDXL


def infer_controlnet(shapes: Shapes, layout: str, like: UNetConfig) -> ControlNetConfig:
    """The config of a ControlNet from its shapes, whose keys have no prefix; `like` is the UNet beside it, which has
    the values that shapes do not show. Raises `KeyError` and `IndexError` for an incomplete file.
    """
    conv_in, conv1, vector = _NAMES[layout]
    down, _ = single_levels(shapes) if layout == "single" else folder_levels(shapes)
    channels = tuple(shapes[f"{level[0][0]}.{conv1}.weight"][0] for level in down)
    depths = tuple(tuple(depth_of(shapes, attn) for _, attn in level) for level in down)
    contexts = [shapes[key][1] for key in shapes if key.endswith("attn2.to_k.weight")]
    same = channels == like.channels
    trunk = UNetConfig(
        in_channels=shapes[f"{conv_in}.weight"][1],
        out_channels=like.out_channels,
        channels=channels,
        down=depths,
        mid=middle_of(shapes, layout),
        up=tuple((level[-1],) * (len(level) + 1) for level in reversed(depths)),
        heads=like.heads if same else tuple(max(1, width // HEAD_DIM) for width in channels),
        context_dim=contexts[0] if contexts else like.context_dim,
        vector_dim=shapes[f"{vector}.weight"][1],
        size_dim=like.size_dim,
        norm_groups=like.norm_groups if same else gcd(NORM_GROUPS, *channels),
        norm_eps=like.norm_eps,
        sample_size=like.sample_size,
    )
    widths = hint_widths(shapes, layout)
    types = shapes["task_embedding"][0] if "task_embedding" in shapes else 0
    if not types:
        return ControlNetConfig(trunk, widths)
    type_dim = shapes["control_add_embedding.linear_1.weight"][1] // max(types, 1)
    fusers = count_of(shapes, "transformer_layes.{}.ln_1.weight")
    return ControlNetConfig(trunk, widths, types, type_dim, fusers)


def hint_widths(shapes: Shapes, layout: str) -> tuple[int, ...]:
    """The channels of the encoder of control images: of its first convolution, and behind each of stride 2."""
    if layout == "folder":
        name = "controlnet_cond_embedding"
        blocks = count_of(shapes, name + ".blocks.{}.weight")
        keys = [f"{name}.conv_in.weight", *(f"{name}.blocks.{n}.weight" for n in range(1, blocks, 2))]
    else:
        count = next(n for n in itertools.count() if f"input_hint_block.{2 * n}.weight" not in shapes)
        keys = [f"input_hint_block.{n}.weight" for n in (0, *range(4, 2 * count - 2, 4))]
    return tuple(shapes[key][0] for key in keys)


def infer_t2i_adapter(shapes: Shapes, layout: str) -> T2IAdapterConfig:
    """The config of a T2I-Adapter from its shapes, whose keys have no prefix. Raises `KeyError` and `IndexError`."""
    block = "body.{}.block1.weight" if layout == "single" else "body.0.resnets.{}.block1.weight"
    blocks = count_of(shapes, block)
    if layout == "single":
        blocks = max(blocks // 4, 1)
        names = [f"body.{blocks * level}.block1.weight" for level in range(4)]
    else:
        names = [f"body.{level}.resnets.0.block1.weight" for level in range(4)]
    first, second, third, fourth = (shapes[name][0] for name in names)
    side = T2IAdapterConfig.factor
    return T2IAdapterConfig(shapes["conv_in.weight"][1] // side**2, (first, second, third, fourth), blocks)


def t2i_layout(shapes: Shapes) -> str | None:
    """The layout of a T2I-Adapter's keys, `single` for Tencent's names; None for another file."""
    if "body.0.block1.weight" in shapes and "conv_in.weight" in shapes:
        return "single"
    return "folder" if "body.0.resnets.0.block1.weight" in shapes and "conv_in.weight" in shapes else None
