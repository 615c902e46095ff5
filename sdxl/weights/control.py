"""Opens networks for control images: ControlNets, unions, Control-LoRAs, T2I-Adapters and ControlNet-LLLites. Every key
of their files is used, known to be ignorable, or an error.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, ConfigError, brief, naming
from ..models.control_config import ControlNetConfig, LLLiteConfig, T2IAdapterConfig
from ..models.unet_config import UNetConfig
from . import diffusers_config
from .checkpoint import open_files
from .component import Component, check_components
from .container import TensorFile, Weights
from .control_keys import controlnet_rows, t2i_adapter_rows
from .control_kinds import (
    CONTROL_LORA,
    LLLITE,
    MARKER,
    NAME,
    T2I_ADAPTER,
    hint_widths,
    infer_controlnet,
    infer_t2i_adapter,
    kind_of,
    layout_of,
    prefix_of,
    refusal,
    t2i_layout,
)
from .folder import read_json
from .identify import strip
from .infer import complete
from .keymap import PREFIXES, UNET, Row
from .lllite import check_lllite, read_lllite
from .weight_files import STEMS

_FACTORS = ("up", "down")


@dataclass(frozen=True)
class LowRank:
    """A change of a weight: the product of two factors is added, which stay in their file."""

    weights: Weights = field(compare=False, repr=False)
    name: str

    def __call__(self, weight: Tensor) -> Tensor:
        up, down = (self.weights.read(f"{self.name}.{each}").float().flatten(1) for each in _FACTORS)
        return weight + (up @ down).reshape(weight.shape).to(weight.device)


@dataclass(frozen=True)
class OpenedControl:
    """A network for control images. `changes` are those of a Control-LoRA, by our names of the weights."""

    kind: str
    component: Component
    changes: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    @property
    def types(self) -> int:
        """How many types of control images a union has; 0 for others."""
        config = self.component.config
        return config.types if isinstance(config, ControlNetConfig) else 0


def open_control(
    path: Path, like: UNetConfig, variant: str | None = None, base: Component | None = None
) -> OpenedControl:
    """Open the network of a .safetensors file or a diffusers folder for the control of a model with a UNet `like` this:
    headers and JSON alone. A Control-LoRA changes the weights of `base`, that UNet. Raises `CheckpointError` for a
    network of another kind or family, and for one that does not fit.
    """
    weights, config = read_files(path, variant)
    if (found := refusal(weights)) is not None:
        name, advice = found
        raise CheckpointError(f"{path} is {name}; {advice}")
    if _is_instant_id(path):
        raise CheckpointError(f"{path} is the ControlNet of InstantID, which needs its face encoder; give another")
    kind = kind_of(weights)
    assert kind is not None
    with naming(path):
        if kind == CONTROL_LORA:
            with complete(kind):
                opened = _control_lora(weights, like, base)
        else:
            opened = OpenedControl(kind, read_control(kind, weights, config, like))
        check_components([opened.component])
        _check_fit(opened, like)
    return opened


def read_files(path: Path, variant: str | None) -> tuple[Weights, Mapping[str, Any]]:
    """The weights of a network, and the config.json of its folder."""
    if not os.path.isdir(path):
        return Weights([TensorFile(path)]), {}
    if not os.path.isfile(path / "config.json"):
        raise CheckpointError(f"{path} has no config.json; give the folder of a network, or one .safetensors file")
    config = read_json(path / "config.json")
    name = config.get("_class_name")
    if name not in (None, "ControlNetModel", "ControlNetUnionModel", "T2IAdapter"):
        raise CheckpointError(
            f"{path} holds a {brief(name)}; expected ControlNetModel, ControlNetUnionModel or T2IAdapter. Try one for "
            "SDXL"
        )
    return Weights(open_files(path, STEMS[UNET], variant)), config


def _is_instant_id(path: Path) -> bool:
    """Whether a folder is InstantID's: its ControlNet has an ordinary one's keys and shapes."""
    folder = path if os.path.isdir(path) else path.parent
    return folder.name == "ControlNetModel" and os.path.isfile(folder.parent / "ip-adapter.bin")


def read_control(kind: str, weights: Weights, data: Mapping[str, Any], like: UNetConfig) -> Component:
    """The component of a network of a kind, but a Control-LoRA, whose keys are not checked; `data` is its config.json.
    Raises `CheckpointError`.
    """
    with complete(kind):
        if kind == LLLITE:
            return read_lllite(weights, like)
        return _t2i_adapter(weights, data) if kind == T2I_ADAPTER else _controlnet(weights, data, like)


def _controlnet(weights: Weights, data: Mapping[str, Any], like: UNetConfig) -> Component:
    prefix = prefix_of(weights)
    bare = strip(weights, prefix)
    layout = layout_of(bare)
    assert layout is not None
    config = infer_controlnet(bare, layout, like)
    return _component(_with_stated(config, data) if data else config, controlnet_rows(config), layout, prefix, weights)


def _with_stated(config: ControlNetConfig, data: Mapping[str, Any]) -> ControlNetConfig:
    """A config with what its config.json says and the shapes do not: counts of heads, groups of norms, the order of
    colours. What both say the shapes know better: unions of 6 and of 8 types lie in one folder.
    """
    for name, supported in (("conditioning_channels", 3), ("global_pool_conditions", False)):
        if data.get(name, supported) != supported:
            raise ConfigError(f"config.json: {name} is {brief(data[name])}; only {supported} is supported")
    order = data.get("controlnet_conditioning_channel_order", "rgb")
    if order not in ("rgb", "bgr"):
        raise ConfigError(
            f"config.json: controlnet_conditioning_channel_order is {brief(order)}; it must be rgb or bgr"
        )
    down = data.get("down_block_types")
    up = [str(each).replace("Down", "Up") for each in reversed(down)] if isinstance(down, list) else None
    stated = diffusers_config.read_unet({**data, "up_block_types": up}, "config.json")
    if stated.channels != config.trunk.channels:
        raise ConfigError(
            f"config.json: block_out_channels is {list(stated.channels)}, and the weights have "
            f"{list(config.trunk.channels)}; download both again"
        )
    own = {name: getattr(stated, name) for name in ("heads", "norm_groups", "norm_eps", "size_dim")}
    return replace(config, trunk=replace(config.trunk, **own), is_bgr=order == "bgr")


def _t2i_adapter(weights: Weights, data: Mapping[str, Any]) -> Component:
    kind = data.get("adapter_type", "full_adapter_xl")
    if kind != "full_adapter_xl":
        raise ConfigError(f"config.json: adapter_type is {brief(kind)}; expected full_adapter_xl, that of SDXL")
    prefix = prefix_of(weights)
    bare = strip(weights, prefix)
    layout = t2i_layout(bare)
    assert layout is not None
    config = infer_t2i_adapter(bare, layout)
    return _component(config, t2i_adapter_rows(config), layout, prefix, weights)


def _control_lora(weights: Weights, like: UNetConfig, base: Component | None) -> OpenedControl:
    """A ControlNet with the weights of a UNet, changed by the file's factors."""
    if base is None:
        raise CheckpointError(
            "a Control-LoRA changes the weights of the model's files, and this model has none; load it from files, or "
            "give a ControlNet"
        )
    prefix = prefix_of(weights)
    if like.in_channels != like.out_channels:
        raise CheckpointError(
            f"a Control-LoRA changes the weights of a base model, and this UNet takes {like.in_channels} channels; "
            "load a base model, or give a ControlNet"
        )
    config = ControlNetConfig(like, hint_widths(strip(weights, prefix), "single"))
    component = _component(config, controlnet_rows(config), "single", prefix, weights)
    changes, factors = {}, {MARKER} & set(weights)
    for row in component.rows:
        name = row.single.removesuffix(".weight")
        own = [f"{name}.{each}" for each in _FACTORS]
        present = [key for key in own if key in weights]
        if row.single in weights or (not present and row.ours.endswith(".bias")):
            continue
        if len(present) < len(own):
            raise KeyError(next(key for key in own if key not in weights))
        changes[row.ours] = LowRank(weights, name)
        factors |= set(own)
    component = replace(component, others=component.others | factors, base=base)
    _check_factors(component, changes)
    return OpenedControl(CONTROL_LORA, component, changes)


def _check_factors(component: Component, changes: Mapping[str, LowRank]) -> None:
    """Raise `CheckpointError` for factors that make no change of their weight, and `KeyError` for missing biases."""
    shapes = component.own_shapes()
    for row in component.rows:
        if row.ours not in changes:
            if row.single not in component.weights:
                raise KeyError(row.single)
            continue
        name, want = changes[row.ours].name, shapes[row.ours]
        up, down = (component.weights[f"{name}.{each}"] for each in _FACTORS)
        sizes = want[0], math.prod(up[1:]), math.prod(want[1:])
        if min(len(up), len(down)) < 2 or (up[0], down[0], math.prod(down[1:])) != sizes:
            raise CheckpointError(
                f"{name}.up {list(up)} and {name}.down {list(down)} do not change a weight of shape {list(want)}; give "
                "one for this model"
            )


def _component(
    config: ControlNetConfig | T2IAdapterConfig, rows: Iterator[Row], layout: str, prefix: str, weights: Weights
) -> Component:
    table = [replace(row, single=prefix + row.single, folder=prefix + row.folder) for row in rows]
    others = {key for key in weights if prefix and not key.startswith(prefix) and key.startswith(PREFIXES)}
    return Component(NAME, config, table, layout, weights, others=frozenset(others))


def _check_fit(opened: OpenedControl, unet: UNetConfig) -> None:
    """Raise `CheckpointError` unless the network's features are those of the UNet."""
    config = opened.component.config
    if isinstance(config, T2IAdapterConfig):
        channels = unet.channels
        if len(channels) != 3 or config.channels != (*channels, channels[-1]):
            raise CheckpointError(
                f"the T2I-Adapter has features of {list(config.channels)} channels and the model {list(channels)}; "
                "give one for this model"
            )
        return
    if isinstance(config, LLLiteConfig):
        check_lllite(config, unet)
        return
    assert isinstance(config, ControlNetConfig)
    own = config.trunk
    pairs = (
        ("features of {} channels", own.skip_channels(), unet.skip_channels()),
        ("a context of width {}", own.context_dim, unet.context_dim),
        ("a vector of width {}", own.vector_dim, unet.vector_dim),
        ("latents of {} channels", own.in_channels, unet.out_channels),
    )
    for what, mine, wanted in pairs:
        if mine != wanted:
            raise CheckpointError(
                f"the {opened.kind} has {what.format(mine)}, and the model's UNet {wanted}; give one for this model"
            )
