"""The weights of one network on disk, under this package's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, brief
from ..models.clip import TextEncoder
from ..models.config import TextConfig, VAEConfig
from ..models.control_config import ControlNetConfig, LLLiteConfig, T2IAdapterConfig
from ..models.controlnet import ControlNet
from ..models.esrgan import ESRGAN
from ..models.esrgan_config import ESRGANConfig
from ..models.ip_adapter import IPAdapter
from ..models.lllite import LLLite
from ..models.t2i_adapter import T2IAdapter
from ..models.tiny_vae import TinyVAE
from ..models.tiny_vae_config import TinyVAEConfig
from ..models.unet import UNet
from ..models.unet_config import UNetConfig
from ..models.vae import VAE
from ..models.vision import VisionEncoder
from ..models.vision_config import IPAdapterConfig, VisionConfig
from .container import Weights
from .keymap import TEXT, Row, ignorable, summarize
from .ops import Op, from_stored, stored_shape
from .quantized import Product

Config = (
    UNetConfig
    | VAEConfig
    | TinyVAEConfig
    | TextConfig
    | ControlNetConfig
    | T2IAdapterConfig
    | LLLiteConfig
    | VisionConfig
    | IPAdapterConfig
    | ESRGANConfig
)
_BLOCK = re.compile(r"(^|\.)(blocks|layers)\.\d+\.")  # in our names
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


@dataclass
class Findings:
    """The result of comparing files with a config: missing, unexpected and ignored keys, and one sentence for each
    tensor of a wrong shape or dtype.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Component:
    """One network's weights. `layout` is the naming of the keys in its files: `single` or `folder`. `others` are keys
    of its files that belong to other components. `prediction` is a UNet's: see `identify.prediction`. Tensors that its
    files lack are taken from `base`, another component with some of the same names of ours.
    """

    name: str
    config: Config
    rows: list[Row]
    layout: str
    weights: Weights
    prediction: tuple[str, bool] | None = None
    others: frozenset[str] = frozenset()
    base: Component | None = None

    def build(self) -> nn.Module:
        """The network on the meta device: no memory, no initialisation."""
        return _build(self.config)

    def own_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of the network's tensors, by our names."""
        return _own_shapes(self.config)

    def key(self, row: Row) -> str:
        """The key of a row in this component's files."""
        return row.single if self.layout == "single" else row.folder

    def keys(self) -> set[str]:
        """The keys that this component reads from its files."""
        return {self.key(row) for row in self.rows}

    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of its tensors in its files."""
        lent = [base.weights[base.key(row)] for base, row in self._lent().values()]
        return [self.weights[key] for key in self.keys() & set(self.weights)] + lent

    def block_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the matrices of its transformer blocks in its files."""
        own = {self.key(row): self.weights.get(self.key(row), ()) for row in self.rows if _BLOCK.search(row.ours)}
        lent = [base.weights[base.key(row)] for base, row in self._lent().values() if _BLOCK.search(row.ours)]
        return [shape for shape in (*own.values(), *lent) if len(shape) == 2]

    def _lent(self) -> dict[str, tuple[Component, Row]]:
        """What is taken from its base, by our names: that component, and its row."""
        base = self.base
        if base is None:
            return {}
        absent = {row.ours for row in self.rows if self.key(row) not in self.weights}
        return {row.ours: (base, row) for row in base.rows if row.ours in absent}

    def find(self) -> Findings:
        """Compare the files with the config, except superfluous keys: files may hold several components."""
        present = {row.ours for row in self.rows if self.key(row) in self.weights} | self._lent().keys()
        absent = (self.key(row) for row in self.rows if row.ours not in present and not self.is_unread(row))
        findings = Findings(missing=list(dict.fromkeys(absent)))
        wanted = self.own_shapes()
        for row in self.rows:
            key, op = self.key(row), self._op(row)
            if key not in self.weights:
                continue
            shape, want, dtype = self.weights[key], stored_shape(wanted[row.ours], op), self.weights.dtype(key)
            if shape != want and not (op is Op.CONV1X1 and shape == want[:2]):
                findings.wrong.append(
                    f"{key} has shape {list(shape)}; expected {list(want)}, use a file and a config of the same model"
                )
            if dtype not in _FLOATS:
                findings.wrong.append(
                    f"{key} has dtype {brief(dtype)}; expected {', '.join(_FLOATS)}, download a model that is not "
                    "quantized"
                )
        return findings

    def check(self) -> None:
        """Raise `CheckpointError` for missing tensors, wrong shapes and dtypes that are not floating-point."""
        findings = self.find()
        if findings.missing:
            raise CheckpointError(
                f"{self.weights.where}: {len(findings.missing)} tensors of the {self.name} are missing: "
                f"{summarize(findings.missing)}; the file is incomplete, download it again"
            )
        if findings.wrong:
            raise CheckpointError(f"{self.weights.where}: {findings.wrong[0]}")

    def is_unread(self, row: Row) -> bool:
        """Whether SDXL never reads a parameter: CLIP-L's last layer and final norm, which some tools leave out."""
        if self.name != TEXT or not isinstance(self.config, TextConfig):
            return False
        return row.ours.startswith((f"layers.{self.config.layers - 1}.", "norm_out."))

    def _op(self, row: Row) -> Op:
        return row.op if self.layout == "single" else row.folder_op

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, without absent tensors that SDXL never reads: views of the mapped files, or products."""
        for name, tensor, product in self._stored():
            yield name, tensor if product is None else product(tensor)
            if product is not None:
                self.forget(tensor)

    def _stored(self) -> Iterator[tuple[str, Tensor, Product | None]]:
        """Names, views of the mapped files, and what makes the weights of those that have scales."""
        for name, (owner, row) in self._sources().items():
            key, op = owner.key(row), owner._op(row)
            product = owner.weights.product(key)
            yield name, from_stored(owner.weights.stored(key), op), None if product is None else product.of(op)

    def _sources(self) -> dict[str, tuple[Component, Row]]:
        """Where each tensor comes from, by our names: a component and its row."""
        own = {row.ours: (self, row) for row in self.rows if self.key(row) in self.weights}
        return own | self._lent()

    def forget(self, *read: Tensor) -> None:
        """Release the memory of these tensors that were read, or of all."""
        self.weights.forget(*read)
        if self.base is not None:
            self.base.forget(*read)

    def close(self) -> None:
        """Release the mappings of its files."""
        self.weights.close()
        if self.base is not None:
            self.base.close()

    def state(self) -> dict[str, Tensor]:
        """The tensors of the network, with zeros for those that SDXL never reads."""
        return self._completed(dict(self.tensors()))

    def stored_state(self) -> tuple[dict[str, Tensor], dict[str, Product]]:
        """`state` with views of the files, also of weights that have scales, and what makes those weights, by name."""
        found = list(self._stored())
        products = {name: product for name, _, product in found if product is not None}
        return self._completed({name: tensor for name, tensor, _ in found}), products

    def _completed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        unread = {row.ours for row in self.rows if row.ours not in state and self.is_unread(row)}
        return state | {name: torch.zeros(self.own_shapes()[name], dtype=torch.float32) for name in unread}


_NETWORKS: dict[type, Callable[[Any], nn.Module]] = {
    UNetConfig: UNet,
    VAEConfig: VAE,
    TinyVAEConfig: TinyVAE,
    TextConfig: TextEncoder,
    ControlNetConfig: ControlNet,
    T2IAdapterConfig: T2IAdapter,
    LLLiteConfig: LLLite,
    VisionConfig: VisionEncoder,
    IPAdapterConfig: IPAdapter,
    ESRGANConfig: ESRGAN,
}


def _build(config: Config) -> nn.Module:
    with torch.device("meta"):
        return _NETWORKS[type(config)](config)


@lru_cache(maxsize=16)  # a model is checked, loaded, and asked again for each LoRA
def _own_shapes(config: Config) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in _build(config).state_dict().items()}


def find_superfluous(components: list[Component]) -> Findings:
    """The keys of components' files that belong to none of them: `ignored` if known as harmless, else `unexpected`."""
    findings = Findings()
    for weights in {id(each.weights): each.weights for each in components}.values():
        known = {key for each in components if each.weights is weights for key in each.keys() | each.others}
        rest = [key for key in weights if key not in known]
        ignored = {key for key in rest if ignorable(key, weights[key], weights.dtype(key))}
        findings.ignored += [*(key for key in rest if key in ignored), *weights.bare_values]
        findings.unexpected += [key for key in rest if key not in ignored]
    return findings


def check_components(components: list[Component]) -> None:
    """Raise `CheckpointError` for superfluous keys, then as `Component.check` does."""
    for weights in {id(each.weights): each.weights for each in components}.values():
        own = [each for each in components if each.weights is weights]
        if unexpected := find_superfluous(own).unexpected:
            raise CheckpointError(
                f"{weights.where}: {len(unexpected)} tensors do not belong to this SDXL model: "
                f"{summarize(unexpected)}; download the file again, or convert it with the tool that wrote it"
            )
        for each in own:
            each.check()
