"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): layers that are trained beside frozen ones, and the file that
other tools read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.config import ModelConfig
from ..models.layers import Conv2d, Linear
from ..runtime.rewrite import rewrite
from ..weights.component import Component
from ..weights.container import save_tensors
from ..weights.keymap import TEXT, TEXT_2, UNET, component_rows

_PREFIXES = {UNET: "lora_unet_", TEXT: "lora_te1_", TEXT_2: "lora_te2_"}  # kohya's, which every tool reads


class LowRank(nn.Module):
    """A frozen linear layer or convolution, plus alpha / rank times the product of two small ones.

    `down` (rank outputs) begins at random, `up` at zero: at first nothing is changed.
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
        return self.base(x) + self.alpha / len(self.down.weight) * self.up(self.down(x))

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
    """
    layers: dict[str, LowRank] = {}

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if not isinstance(module, (nn.Linear, nn.Conv2d)) or not selected(name):
            return None
        most = min(rank, len(module.weight), module.weight[0].numel())
        layers[name] = LowRank(module, most, most if alpha is None else alpha * most / rank)
        return layers[name]

    rewrite(network, rule)
    return layers


def detach_lora(network: nn.Module) -> None:
    """Put the frozen layers back."""
    rewrite(network, lambda name, module: module.base if isinstance(module, LowRank) else None)


def save_lora(
    path: Path,
    config: ModelConfig,
    layers: Mapping[str, Mapping[str, LowRank]],
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write the layers of each component as kohya's scripts do, with diffusers' names: `lora_unet_...lora_down.weight`.

    `metadata` is for the header of the file. Raises `OutputError`.
    """
    tensors: dict[str, Tensor] = {}
    for component, rows in component_rows(config).items():
        modules = {row.ours.rpartition(".")[0]: row.folder.rpartition(".")[0] for row in rows}
        for name, layer in layers.get(component, {}).items():
            key = _PREFIXES[component] + modules[name].replace(".", "_")
            for leaf, factor in (("lora_down", layer.down), ("lora_up", layer.up)):
                tensors[f"{key}.{leaf}.weight"] = factor.weight.detach().cpu().to(dtype).contiguous()
            tensors[f"{key}.alpha"] = torch.tensor(layer.alpha, dtype=dtype)
    architecture = "stable-diffusion-xl-v1-base/lora"
    save_tensors(tensors, path, {"modelspec.architecture": architecture, **metadata})
