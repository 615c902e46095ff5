"""From a `ModelRequest` to a model in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, brief, warn
from ..models.clip import TextEncoder
from ..models.tiny_vae import AnyVAE
from ..models.unet import UNet
from ..runtime.device import DTYPES, choose_device, choose_dtype
from ..runtime.lazy import Lazy
from ..runtime.memory import choose_offload
from ..runtime.placement import Placement, choose_placement, text_placement, vae_placement
from ..runtime.precision import Precision
from ..runtime.streamed import Change
from ..text.encode import TextCache, TextStage, with_tokens
from ..weights import hub
from ..weights.checkpoint import Checkpoint, check_folder, open_checkpoint, open_component, open_preview
from ..weights.component import Component
from ..weights.info import ModelInfo
from ..weights.keymap import TEXT, TEXT_2, UNET
from ..weights.keymap import VAE as VAE_NAME
from ..weights.weight_files import folder_files, idle_variant
from .expert import Expert
from .model import Model
from .model_hashes import ModelHashes, PendingHash
from .model_request import AnyPath, ModelRequest
from .network_loading import check_files, component_bytes, load, load_again
from .recorded_model import SOURCES, RecordedModel
from .tokens import tokenizers_of
from .weight_changes import Both, own_changes

Embeddings = Mapping[str, Mapping[str, Tensor]]
"""Learned vectors (N, dim) by the name of a text encoder and the word."""
Changes = Mapping[str, Change]
"""Functions of weights by name: `unet.`, `vae.`, `text_encoder.` or `text_encoder_2.` and our name of the weight, those
of a refiner behind `refiner.`."""


@dataclass(frozen=True)
class Loader:
    """Opened checkpoints, a model's and perhaps its refiner's, and how their networks are to be loaded. `changes` are
    applied to their weights, and then `adapted`, those of LoRAs. `embeddings` are learned vectors for words, by the
    name of the text encoder. `hashes` are those of the files. With `trainable` the layers are plain ones, which own
    their weights. Without an `arithmetic` it is the fastest for `dtype`. `preview` is the tiny VAE of previews.
    """

    checkpoints: Sequence[Checkpoint]
    device: torch.device
    dtype: torch.dtype
    int8: bool = False
    fp8: bool = False
    changes: Changes = field(default_factory=dict)
    adapted: Changes = field(default_factory=dict)
    embeddings: Embeddings = field(default_factory=dict)
    hashes: ModelHashes = field(default_factory=ModelHashes)
    trainable: bool = False
    arithmetic: torch.dtype | None = None
    preview: Component | None = None

    def model(self, offload: str, caches: Sequence[TextCache | None] | None = None) -> Model:
        """The model with a way of keeping it in memory; nothing is loaded yet."""
        caches = caches or [None] * len(self.checkpoints)
        experts = [self._expert(number, offload, cache) for number, cache in enumerate(caches)]
        load_vae = self._load(VAE_NAME, 0, offload)
        model = Model(tuple(experts), Lazy(cast("Callable[[], AnyVAE]", load_vae)), offload)
        if self.preview is None:
            return model
        load_preview: Any = partial(load, self.preview, self.placement(UNET, offload))
        return replace(model, preview=Lazy(load_preview))

    def placement(self, name: str, offload: str) -> Placement:
        """Where the weights of a component lie."""
        at = Placement(self.device, self.dtype, self.dtype)
        if not self.trainable:
            at = choose_placement(self.device, self.dtype, offload == "block", self.int8, self.arithmetic, self.fp8)
        if name == VAE_NAME:
            return vae_placement(at, self.checkpoints[0].info.config.vae)
        return at if name == UNET else text_placement(at, offload)

    def _expert(self, number: int, offload: str, cache: TextCache | None) -> Expert:
        info = self.checkpoints[number].info

        def load_text() -> list[TextStage]:
            info.check_ids()
            loads = [self._load(name, number, offload) for name in info.encoders]
            return self.text_stages(number, [cast(TextEncoder, load()) for load in loads])

        load_unet, at = self._load(UNET, number, offload), self.placement(UNET, offload)
        return Expert(info, Lazy(cast("Callable[[], UNet]", load_unet)), Lazy(load_text), at, cache)

    def text_stages(self, number: int, encoders: Sequence[TextEncoder]) -> list[TextStage]:
        """The text encoders of a checkpoint with their tokenizers and learned words."""
        info = self.checkpoints[number].info
        return [
            with_tokens(TextStage(tokenizer, encoder), self.embeddings.get(name, {}))
            for (name, tokenizer), encoder in zip(tokenizers_of(info).items(), encoders, strict=True)
        ]

    def _load(self, name: str, number: int, offload: str) -> Callable[[], nn.Module]:
        component = self.checkpoints[number].components[name]
        at = self.placement(name, offload)
        return partial(load, component, at, self._own_changes(component, number), self.trainable)

    def _own_changes(self, component: Component, number: int) -> dict[str, Change]:
        """The changes of a component's weights, by our names of them."""
        prefix = f"{PREFIXES[number]}{component.name}."
        names = {name for name in (*self.changes, *self.adapted) if name.startswith(prefix)}
        changes = {name.removeprefix(prefix): self.change(name) for name in names}
        return {name: change for name, change in changes.items() if change is not None}

    def change(self, name: str) -> Change | None:
        """The function of a weight; equal for equal adapters, None if it is as in its file."""
        first, second = self.changes.get(name), self.adapted.get(name)
        return Both(first, second) if first is not None and second is not None else first or second

    def load_again(self, name: str, number: int, network: nn.Module, offload: str, weights: Collection[str]) -> None:
        """Bring the layers of a loaded network that have these weights to their places again."""
        component, prefix = self.checkpoints[number].components[name], f"{PREFIXES[number]}{name}."
        own = [each.removeprefix(prefix) for each in weights if each.startswith(prefix)]
        if own:
            changes = self._own_changes(component, number)
            load_again(component, self.placement(name, offload), changes, network, own)

    def bytes(self) -> list[int]:
        """The memory of each network's weights."""
        return [component_bytes(each, self._kept) for each in self._components]

    def text_bytes(self) -> int:
        """The memory of the text encoders' weights."""
        return sum(component_bytes(each, self._kept) for each in self._components if each.name in (TEXT, TEXT_2))

    @property
    def _components(self) -> list[Component]:
        return [each for checkpoint in self.checkpoints for each in checkpoint.components.values()]

    @property
    def _kept(self) -> Placement:
        """The dtypes of weights that are in memory."""
        return Placement(self.device, self.dtype, self.dtype, int8=self.int8, fp8=self.fp8)

    def choose_offload(self, offload: str, max_memory: Any) -> str:
        """`offload` itself, or for "auto" the one that fits. Raises `OutOfMemoryError` for one that cannot."""
        return choose_offload(offload, self.bytes(), self.text_bytes(), self.device, max_memory, self.int8)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """The weights of the first model's files, by component, with the changes in the dtypes of the files."""
        return {
            name: {row: self._changed(f"{name}.{row}", weight) for row, weight in component.tensors()}
            for name, component in self.checkpoints[0].components.items()
        }

    def _changed(self, name: str, weight: Tensor) -> Tensor:
        change = self.change(name)
        return weight if change is None else change(weight.float()).to(weight.dtype)

    def check_unchanged(self) -> None:
        """Raise `CheckpointError` if a file whose tensors are in use was written to."""
        check_files([*self._components, *([] if self.preview is None else [self.preview])])

    def with_changes(self, changes: Changes) -> Loader:
        """The same with other changes of its weights. Raises `ArgumentError` for a name that no weight has."""
        names = {
            f"{PREFIXES[number]}{component.name}.{row.ours}"
            for number, checkpoint in enumerate(self.checkpoints)
            for component in checkpoint.components.values()
            for row in component.rows
        }
        return replace(self, changes=own_changes(changes, names))


PREFIXES = ("", "refiner.")
"""Before the names of each checkpoint's weights."""


def open_loader(request: ModelRequest, precision: Precision | None = None) -> tuple[Loader, str | None]:
    """The loader of the checkpoints that a request names, which are downloaded where they must be, and the variant of
    their files. A `precision` is taken as it is, fast or not.
    """
    _check_sources(request)
    trainable = request.trainable
    if trainable and (request.offload != "none" or request.int8 or request.fp8):
        raise ArgumentError(
            f"trainable is True with offload {brief(request.offload)}, int8 {request.int8} and fp8 {request.fp8}; a "
            "model in training stays in memory as it is, give offload='none', no int8 and no fp8"
        )
    device = choose_device(request.device)
    dtype = _dtype(request, device, precision)
    exact = (trainable or request.dtype is not None) and dtype is torch.float32
    variant = request.variant or (None if exact else "fp16")
    paths = {"model": hub.resolve(request.model, request.revision, variant, check=check_folder)}
    checkpoint = open_checkpoint(paths["model"], variant, needs_vae=request.vae is None)
    preview = None
    if request.preview_vae is not None:
        path = hub.resolve(request.preview_vae, None, variant, part=VAE_NAME)
        preview = open_preview(path, checkpoint.info.config, variant)
    for name, source in ((UNET, request.unet), (VAE_NAME, request.vae)):
        if source is not None:
            paths[name] = hub.resolve(source, None, variant, part=name)
            checkpoint = checkpoint.with_component(open_component(paths[name], name, checkpoint.info.config, variant))
    checkpoints = [checkpoint]
    if request.refiner is not None:
        paths["refiner"] = hub.resolve(request.refiner, None, variant, check=check_folder)
        checkpoints.append(open_checkpoint(paths["refiner"], variant, needs_vae=False))
        _check_refiner(request.refiner, checkpoints[1].info, checkpoint.info)
    arithmetic = None if precision is None else DTYPES[precision.arithmetic]
    loader = Loader(checkpoints, device, dtype, request.int8, request.fp8, trainable=trainable, arithmetic=arithmetic)
    return replace(loader, preview=preview, hashes=_start_hashing(request, paths, variant)), variant


def _dtype(request: ModelRequest, device: torch.device, precision: Precision | None) -> torch.dtype:
    """The dtype of the weights: that of a precision, else the request's, else the machine's choice."""
    dtype = choose_dtype("float32" if request.trainable and request.dtype is None else request.dtype, device)
    if precision is None:
        return dtype
    if request.dtype is not None and DTYPES[precision.dtype] is not dtype:
        raise ArgumentError(f"dtype is {request.dtype} for {precision}; leave one of them out")
    return DTYPES[precision.dtype]


def idle_sources(model: AnyPath, revision: str | None, variant: str | None) -> Iterator[tuple[str, str]]:
    """What asks for other files of a model than this machine has, and why it changes nothing."""
    path = hub.local(model)
    if not os.path.exists(path):
        return
    if revision is not None:
        yield "revision", f"{model} is on this machine; it is for models on the hub"
    if variant is not None and (reason := idle_variant(path, variant)) is not None:
        yield "variant", reason


def _check_sources(request: ModelRequest) -> None:
    """Raise `ArgumentError` for what is no name of files, such as a network of another library."""
    for name in (*SOURCES, "preview_vae"):
        value = getattr(request, name)
        if isinstance(value, (str, os.PathLike)) or (value is None and name != "model"):
            continue
        what = "None" if value is None else f"of type {type(value).__name__}"
        raise ArgumentError(
            f"{name} is {what}; expected a path or a hub id. Try {name}='owner/name', or Pipeline.from_networks for "
            "networks in memory"
        )


def _start_hashing(request: ModelRequest, paths: Mapping[str, Path], variant: str | None) -> ModelHashes:
    """The hashes of all files, which are computed from now on while they are loaded."""
    parts = {UNET: UNET, VAE_NAME: VAE_NAME}
    pending = {name: PendingHash(*folder_files(path, variant, parts.get(name))) for name, path in paths.items()}
    sources = {name: getattr(request, name) for name in paths}
    return ModelHashes(pending, {name: each for name, each in sources.items() if isinstance(each, RecordedModel)})


def choose(loader: Loader, request: ModelRequest) -> tuple[Loader, str]:
    """The way to keep the model in memory; and the loader, with a dtype of half the size if "auto" finds too little
    memory for float32 and nobody has asked for it.
    """
    offload = loader.choose_offload(request.offload, request.max_memory)
    is_free = request.dtype is None and loader.arithmetic is None
    if is_free and offload == "block" != request.offload and loader.dtype is torch.float32:
        loader = replace(loader, dtype=torch.float16)  # half the memory; what is slow in it computes in float32
        offload = loader.choose_offload(request.offload, request.max_memory)
    if loader.fp8 and offload == "block" and loader.device.type == "cpu":
        warn(
            "fp8 saves no memory with offload block on a CPU, where weights stay in their files and are rounded at "
            "every use; leave fp8 out, or give offload stage"
        )
    return loader, offload


def choose_precision(request: ModelRequest) -> Precision:
    """What this machine would load a model in. The files are opened, and downloaded where they must be; no weights are
    loaded.
    """
    loader, _ = choose(open_loader(request)[0], request)
    return loader.placement(UNET, "none").precision


def _check_refiner(name: AnyPath, refiner: ModelInfo, base: ModelInfo) -> None:
    if refiner.config.kind != "refiner":
        raise ArgumentError(f"{name} is SDXL {refiner.config.kind}, not a refiner; give it as the model instead")
    if base.config.kind == "refiner":
        raise ArgumentError("the model is a refiner itself; give a base model, and the refiner as refiner=")
    if base.schedule.edm is not None or refiner.schedule.edm is not None:
        raise ArgumentError(f"{name} is given with a model of EDM's noise levels, which no refiner has; leave it out")
    if refiner.config.vae.latent_channels != base.config.vae.latent_channels:
        raise ArgumentError(f"{name} works on other latents than the model; it is not its refiner, give another")
