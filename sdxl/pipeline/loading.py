"""From a `ModelRequest` to a model in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..errors import ArgumentError
from ..models.clip import TextEncoder
from ..models.unet import UNet
from ..models.vae import VAE
from ..runtime.device import DTYPES, choose_device, choose_dtype
from ..runtime.lazy import Lazy
from ..runtime.memory import choose_offload
from ..runtime.placement import Placement, choose_placement, vae_placement, weight_bytes
from ..runtime.precision import Precision
from ..runtime.settle import settle
from ..runtime.streamed import Change
from ..text.encode import TextCache, TextStage
from ..text.tokenizer import Tokenizer
from ..weights import hub
from ..weights.checkpoint import Checkpoint, check_folder, open_checkpoint, open_component
from ..weights.component import Component
from ..weights.info import ModelInfo
from ..weights.keymap import TEXT, TEXT_2, UNET
from ..weights.keymap import VAE as VAE_NAME
from .expert import Expert
from .model import Model
from .model_request import ModelRequest

Changes = Mapping[str, Change]
"""Functions of weights by name: `unet.`, `vae.`, `text_encoder.` or `text_encoder_2.` and our name of the weight, those
of a refiner behind `refiner.`."""


@dataclass(frozen=True)
class Loader:
    """Opened checkpoints, a model's and perhaps its refiner's, and how their networks are to be loaded. `changes` are
    applied to their weights. Without an `arithmetic` it is the fastest for `dtype`.
    """

    checkpoints: Sequence[Checkpoint]
    device: torch.device
    dtype: torch.dtype
    int8: bool = False
    changes: Changes = field(default_factory=dict)
    arithmetic: torch.dtype | None = None

    def placement(self, streamed: bool = False) -> Placement:
        """Where the UNet lies."""
        return choose_placement(self.device, self.dtype, streamed, self.int8, self.arithmetic)

    def model(self, offload: str, caches: Sequence[TextCache | None] | None = None) -> Model:
        """The model with a way of keeping it in memory; nothing is loaded yet."""
        at = self.placement(streamed=offload == "block")
        stream_text = offload in ("text", "block")
        caches = caches or [None] * len(self.checkpoints)
        experts = [
            self._expert(number, checkpoint, at, stream_text, cache)
            for number, (checkpoint, cache) in enumerate(zip(self.checkpoints, caches, strict=True))
        ]
        vae = self.checkpoints[0].components[VAE_NAME]
        load_vae = self._load(vae, vae_placement(at), number=0)
        return Model(tuple(experts), Lazy(cast("Callable[[], VAE]", load_vae)), offload)

    def _expert(
        self, number: int, checkpoint: Checkpoint, at: Placement, stream_text: bool, cache: TextCache | None
    ) -> Expert:
        components, info = checkpoint.components, checkpoint.info
        # a text encoder runs once for an image: to prepack it costs more than it saves
        once = replace(at, packed=False, streamed=stream_text)

        def load_text() -> list[TextStage]:
            info.check_ids()
            names = [name for name in (TEXT, TEXT_2) if name in components]
            encoders = [cast(TextEncoder, self._load(components[name], once, number)()) for name in names]
            return [
                TextStage(Tokenizer(info.tokenizers[name], encoder.config.positions), encoder)
                for name, encoder in zip(names, encoders, strict=True)
            ]

        load_unet = self._load(components[UNET], at, number)
        return Expert(info, Lazy(cast("Callable[[], UNet]", load_unet)), Lazy(load_text), at, cache)

    def _load(self, component: Component, at: Placement, number: int) -> Callable[[], nn.Module]:
        prefix = f"{_REFINER * number}{component.name}."
        own = {name.removeprefix(prefix): each for name, each in self.changes.items() if name.startswith(prefix)}
        return partial(load, component, at, own)

    def bytes(self) -> list[int]:
        """The memory of each network's weights; with int8 that of a UNet's is the least that it can be."""
        is_packed = self.placement().packed
        components = [each for checkpoint in self.checkpoints for each in checkpoint.components.values()]
        return [
            weight_bytes(each.shapes(), self.dtype, is_packed, self.int8 and each.name == UNET) for each in components
        ]

    def text_bytes(self) -> int:
        """The memory of the text encoders' weights."""
        components = [each for checkpoint in self.checkpoints for each in checkpoint.components.values()]
        return sum(weight_bytes(each.shapes(), self.dtype) for each in components if each.name in (TEXT, TEXT_2))

    def with_changes(self, changes: Changes) -> Loader:
        """The same with other changes of its weights. Raises `ArgumentError` for a name that no weight has."""
        names = {
            f"{_REFINER * number}{component.name}.{row.ours}"
            for number, checkpoint in enumerate(self.checkpoints)
            for component in checkpoint.components.values()
            for row in component.rows
        }
        if unknown := [name for name in changes if name not in names]:
            close = get_close_matches(unknown[0], names, n=1)
            hint = f"perhaps {close[0]} is meant" if close else "names are such as unet.conv_in.weight"
            raise ArgumentError(f"the model has no weight {unknown[0]}; {hint}")
        return replace(self, changes=dict(changes))


_REFINER = "refiner."  # before the names of the second checkpoint's weights


def load(component: Component, placement: Placement, changes: Mapping[str, Change] | None = None) -> nn.Module:
    """A component's network with its weights, ready to run. `changes` are named without the component.

    `open_checkpoint` has checked the component; a missing weight would still be an error here.
    """
    model = component.build()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    settle(model, component.state(shapes), placement, component.weights.forget, changes)
    if not (placement.streamed and placement.device.type == "cpu"):
        component.weights.close()
    return model


def open_loader(request: ModelRequest, precision: Precision | None = None) -> tuple[Loader, str | None]:
    """The loader of the checkpoints that a request names, which are downloaded where they must be, and the variant of
    their files. A `precision` is taken as it is, fast or not.
    """
    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device)
    if precision is not None:
        if request.dtype is not None and DTYPES[precision.dtype] is not dtype:
            raise ArgumentError(f"dtype is {request.dtype} for {precision}; leave one of them out")
        dtype = DTYPES[precision.dtype]
    exact = request.dtype is not None and dtype is torch.float32
    variant = request.variant or (None if exact else "fp16")
    path = hub.resolve(request.model, request.revision, variant, check=check_folder)
    checkpoint = open_checkpoint(path, variant, needs_vae=request.vae is None)
    for name, source in ((UNET, request.unet), (VAE_NAME, request.vae)):
        if source is not None:
            path = hub.resolve(source, None, variant, part=name)
            checkpoint = checkpoint.with_component(open_component(path, name, checkpoint.info.config, variant))
    checkpoints = [checkpoint]
    if request.refiner is not None:
        path = hub.resolve(request.refiner, None, variant, check=check_folder)
        checkpoints.append(open_checkpoint(path, variant, needs_vae=False))
        _check_refiner(request.refiner, checkpoints[1].info, checkpoint.info)
    arithmetic = None if precision is None else DTYPES[precision.arithmetic]
    return Loader(checkpoints, device, dtype, request.int8, arithmetic=arithmetic), variant


def choose(loader: Loader, request: ModelRequest) -> tuple[Loader, str]:
    """The way to keep the model in memory; and the loader, with a dtype of half the size if "auto" finds too little
    memory for float32 and nobody has asked for it.
    """

    def decide(loader: Loader) -> str:
        most: Any = request.max_memory
        return choose_offload(request.offload, loader.bytes(), loader.text_bytes(), loader.device, most, request.int8)

    offload = decide(loader)
    is_free = request.dtype is None and loader.arithmetic is None
    if is_free and offload == "block" != request.offload and loader.dtype is torch.float32:
        loader = replace(loader, dtype=torch.float16)  # half the memory, and the arithmetic stays in float32
        offload = decide(loader)
    return loader, offload


def choose_precision(request: ModelRequest) -> Precision:
    """What this machine would load a model in. The files are opened, and downloaded where they must be; no weights are
    loaded.
    """
    loader, _ = choose(open_loader(request)[0], request)
    return loader.placement().precision


def _check_refiner(name: str | Path, refiner: ModelInfo, base: ModelInfo) -> None:
    if refiner.config.kind != "refiner":
        raise ArgumentError(f"{name} is SDXL {refiner.config.kind}, not a refiner; give it as the model instead")
    if base.config.kind == "refiner":
        raise ArgumentError("the model is a refiner itself; give a base model, and the refiner as refiner=")
    if refiner.config.vae.latent_channels != base.config.vae.latent_channels:
        raise ArgumentError(f"{name} works on other latents than the model; it is not its refiner, give another")
