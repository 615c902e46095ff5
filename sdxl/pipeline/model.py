"""A model in memory: its experts and its VAE, each loaded when it is first needed."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from ..models.tiny_vae import AnyVAE, TinyVAE
from ..runtime.cuda_graph import Graphs, compile_blocks
from ..runtime.lazy import Lazy
from ..runtime.memory import trim
from ..runtime.placement import Placement, text_placement, vae_placement
from ..weights.info import ModelInfo
from .expert import Expert
from .extra_networks import Extra, Extras
from .network_loading import component_bytes


@dataclass(frozen=True)
class Model:
    """`experts` are a model and, if there is one, the refiner that takes over at the end; `offload` says what is in
    memory. `graphs` are there if its steps may be recorded. `extras` are the networks of controls and references.
    `preview`, if there is one, decodes previews.
    """

    experts: tuple[Expert, ...]
    vae: Lazy[AnyVAE]
    offload: str = "none"
    graphs: Graphs | None = None
    extras: Extras = field(default_factory=Extras)
    preview: Lazy[TinyVAE] | None = None
    is_compiled: bool = False

    @property
    def info(self) -> ModelInfo:
        """Everything about the model but its weights."""
        return self.experts[0].info

    @property
    def placement(self) -> Placement:
        """Where its networks lie."""
        return self.experts[0].placement

    @property
    def keeps(self) -> bool:
        """Whether a component stays in memory when its work is done."""
        return self.offload in ("none", "text")

    def extra(self, extra: Extra) -> Lazy[nn.Module]:
        """A network beside its own."""
        return self.extras.get(extra, self.place(extra))

    def place(self, extra: Extra) -> Placement:
        """Where a network beside its own lies."""
        return replace(text_placement(self.placement, self.offload), fp8=False) if extra.runs_once else self.placement

    def missing_bytes(self, wanted: Iterable[Extra]) -> tuple[int, int]:
        """The memory of networks beside its own that are not loaded yet: of those that run beside the UNet, and of
        those that run once, all of them, or the largest where a component is released after its work.
        """
        missing = [(each.runs_once, self._bytes(each)) for each in self.extras.missing(wanted)]
        beside, once = ([size for is_once, size in missing if is_once is each] for each in (False, True))
        return sum(beside), sum(once) if self.keeps else max(once, default=0)

    def _bytes(self, extra: Extra) -> int:
        at = self.place(extra)
        return 0 if at.streamed else component_bytes(extra.component, at)

    def load(self) -> None:
        """Load the components that stay in memory and are not there yet."""
        if self.keeps:
            for expert in self.experts:
                expert.load()
            self.vae()

    def forget_texts(self) -> None:
        """Have every text encoded again: what encodes them has changed."""
        for expert in self.experts:
            if expert.cache is not None:
                expert.cache.clear()

    @contextmanager
    def using(self, *components: Lazy[Any]) -> Iterator[None]:
        """Release components when the work inside is done, or fails, unless they stay in memory."""
        try:
            yield
        finally:
            self.release(*components)

    def release(self, *components: Lazy[Any]) -> None:
        """Release components whose work is done, unless they stay in memory."""
        if not self.keeps:
            self.free(*components)

    def free(self, *components: Lazy[Any]) -> None:
        """Release components, and the graphs that hold them."""
        if self.graphs is not None:
            self.graphs.clear()
        for component in components:
            component.release()
        if self.is_compiled:
            gc.collect()  # compiled blocks hold themselves
        trim()

    def free_all(self) -> None:
        """Release all components."""
        parts = (part for expert in self.experts for part in (expert.unet, expert.text))
        previews = () if self.preview is None else (self.preview,)
        self.free(*parts, self.vae, *previews, *self.extras.all())

    def moved(self, device: torch.device, dtype: torch.dtype) -> Model:
        """The same with its networks, which are in memory, on a device and in a dtype. Raises `ArgumentError` for
        prepacked ones.
        """
        at = Placement(device, dtype, dtype)
        networks: list[tuple[nn.Module, torch.dtype]] = [(self.vae(), vae_placement(at, self.info.config.vae).dtype)]
        networks += [] if self.preview is None else [(self.preview(), dtype)]
        for expert in self.experts:
            networks += [(expert.unet(), dtype), *((stage.encoder, dtype) for stage in expert.text())]
        for network, _ in networks:
            list(network.parameters())  # raises before any is moved
        for network, its_dtype in networks:
            network.to(device, its_dtype)
        experts = tuple(replace(expert, placement=at) for expert in self.experts)
        return replace(self, experts=experts, extras=self.extras.emptied())

    def compiled(self) -> Model:
        """The same with compiled blocks, now or when they are loaded, and CUDA graphs from the first step on."""
        if self.graphs is not None:
            self.graphs.clear()
        for expert in self.experts:
            expert.unet.apply(compile_blocks)
        self.extras.apply(compile_blocks)
        return replace(self, graphs=Graphs(eager_runs=0), is_compiled=True)
