"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): layers that are trained beside frozen ones, and the file that
other tools read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, brief
from ..models.config import ModelConfig
from ..models.layers import Conv2d, Linear
from ..runtime.rewrite import rewrite
from ..runtime.sealed import Sealed
from ..weights.component import Component
from ..weights.container import save_tensors
from ..weights.keymap import TEXT, TEXT_2, UNET, component_rows
from ..weights.path import AnyPath

_PREFIXES = {UNET: "lora_unet_", TEXT: "lora_te1_", TEXT_2: "lora_te2_"}  # kohya's, which every tool reads


class LowRank(nn.Module):
    """A frozen linear layer or convolution, plus alpha / rank times the product of two small ones.

    `down` (rank outputs) begins at random, `up` at zero: at first nothing is changed. Both are float32, and compute in
    it beside a frozen layer of another dtype, but under autocast.
    """

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.alpha = base.requires_grad_(False), alpha
        self.down: nn.Linear | nn.Conv2d
        self.up: nn.Linear | nn.Conv2d
        if isinstance(base, nn.Conv2d):
            shape: dict[str, Any] = {name: getattr(base, name) for name in ("kernel_size", "stride", "padding")}
            self.down = Conv2d(base.in_channels, rank, bias=False, **shape)
            self.up = Conv2d(rank, base.out_channels, 1, bias=False)
        else:
            self.down = Linear(base.in_features, rank, bias=False)
            self.up = Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)
        self.to(base.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        change = self.alpha / len(self.down.weight) * self.up(self.down(x.to(self.down.weight.dtype)))
        return y + change.to(y.dtype)

    @property
    def bias(self) -> Tensor | None:
        """The frozen layer's, which the UNet's cross-attention asks for."""
        return self.base.bias


def load_network(component: Component) -> nn.Module:
    """A network of a checkpoint with plain layers in float32, frozen: what a LoRA is trained on."""
    network = component.build()
    state = {name: value.float().clone() for name, value in component.state().items()}
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(False)


def attach_lora(
    network: nn.Module, rank: int, alpha: float | None = None, selected: Callable[[str], bool] = lambda name: True
) -> dict[str, LowRank]:
    """Put a `LowRank` in place of each linear layer and convolution whose name is `selected`; the layers by name.

    `rank` is at most that of the layer's weight. `alpha` divided by the rank is the factor of the change (None: 1).
    Raises `ArgumentError` where there is no such layer, where the network has low-rank layers already, and for layers
    that are prepacked.
    """
    if rank < 1:
        raise ArgumentError(f"rank is {rank}; expected 1 or more")
    for module in network.modules():
        if isinstance(module, LowRank):
            raise ArgumentError("the network has low-rank layers. Try one call that selects all, or detach_lora first")
        if isinstance(module, Sealed):
            raise ArgumentError(
                "the network is prepacked, and its layers cannot be trained. Try a pipeline with trainable=True, or "
                "load_network"
            )
    layers: dict[str, LowRank] = {}
    names: list[str] = []

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if not isinstance(module, (nn.Linear, nn.Conv2d)):
            return None
        names.append(name)
        if not selected(name):
            return None
        most = min(rank, len(module.weight), module.weight[0].numel())
        layers[name] = LowRank(module, most, most if alpha is None else alpha * most / rank)
        return layers[name]

    rewrite(network, rule)
    if not layers:
        hint = f"expected a part of its {len(names)}, such as {brief(names[-1])}" if names else "it has none"
        raise ArgumentError(f"selected takes no linear layer or convolution of the network; {hint}")
    return layers


def detach_lora(network: nn.Module) -> None:
    """Put the frozen layers back."""
    rewrite(network, lambda name, module: module.base if isinstance(module, LowRank) else None)


def save_lora(
    path: AnyPath,
    config: ModelConfig,
    layers: Mapping[str, Mapping[str, LowRank]],
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write the layers of each component as kohya's scripts do, with diffusers' names: `lora_unet_...lora_down.weight`.

    `metadata` is for the header of the file. Raises `OutputError`, and `ArgumentError` for layers that are not the
    model's.
    """
    tensors: dict[str, Tensor] = {}
    rows = component_rows(config)
    for component, own in layers.items():
        if component not in rows or component not in _PREFIXES:
            known = ", ".join(name for name in _PREFIXES if name in rows)
            raise ArgumentError(f"layers has {brief(component)}; expected components of the model: {known}")
        modules = {row.ours.rpartition(".")[0]: row.folder.rpartition(".")[0] for row in rows[component]}
        for name, layer in own.items():
            if name not in modules:
                raise ArgumentError(
                    f"the {component} of this model has no layer {brief(name)}; expected the names of attach_lora"
                )
            key = _PREFIXES[component] + modules[name].replace(".", "_")
            for leaf, factor in (("lora_down", layer.down), ("lora_up", layer.up)):
                tensors[f"{key}.{leaf}.weight"] = factor.weight.detach().cpu().to(dtype).contiguous()
            tensors[f"{key}.alpha"] = torch.tensor(layer.alpha, dtype=dtype)
    architecture = "stable-diffusion-xl-v1-base/lora"
    save_tensors(tensors, path, {"modelspec.architecture": architecture, **metadata})
