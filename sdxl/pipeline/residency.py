"""Which model is in memory, and how much of it: what fits before the work, and less of it where memory runs out."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch

from ..errors import ArgumentError, OutOfMemoryError, warn
from ..runtime.cuda_graph import Graphs, check_compiler
from ..runtime.device import choose_dtype
from ..runtime.memory import RESERVE, available, check_memory, is_out_of_memory, trim, used, vae_bytes
from ..runtime.offload import next_smaller
from ..text.encode import TextCache
from ..weights.keymap import UNET, VAE
from .extra_networks import Extra
from .loading import Changes, Loader
from .model import Model
from .network_loading import check_files
from .plan import Plan

T = TypeVar("T")
NO_GRAPHS = "SDXL_NO_GRAPHS"
_MARGIN = 1.25  # of the estimate, for work on several images that could be fewer
_MOST_RESULTS = 64  # of networks of references, which take up to 12 MB each


class Residency:
    """Holds the present `model`. With a `loader` the model can be loaded again; if `may_shrink` ("auto"), with less of
    it in memory. At most `max_memory` bytes are taken.
    """

    def __init__(
        self, model: Model, loader: Loader | None = None, may_shrink: bool = False, max_memory: float | None = None
    ) -> None:
        self.loader, self.may_shrink, self.max_memory = loader, may_shrink, max_memory
        self.model = self._recorded(model)
        self.revision = 0  # of the weights
        self._wanted: tuple[Extra, ...] = ()  # by the last plan

    def room(self) -> float:
        """Bytes that may still be taken."""
        device, graphs = self.model.placement.device, self.model.graphs
        if self.max_memory is not None:
            trim()  # memory that is only kept for later is not taken
        free = available(device) - (graphs.bytes if graphs is not None else 0)
        return free if self.max_memory is None else min(free, self.max_memory - used(device))

    def _recorded(self, model: Model) -> Model:
        """The same whose steps are recorded, on CUDA, where its UNet stays in memory and a caller does not change it:
        what changes in Python from step to step would be lost. Nor are they where the environment forbids it.
        """
        is_fixed = self.loader is not None and not self.loader.trainable and not os.environ.get(NO_GRAPHS)
        if model.placement.device.type != "cuda" or not model.keeps or not is_fixed:
            return model
        own = weakref.ref(self)  # a pipeline without cycles gives its memory back at once

        def room(latent_size: Sequence[int]) -> float:
            residency = own()
            return 0.0 if residency is None else residency._room_of_graphs(latent_size)

        return replace(model, graphs=Graphs(room))

    def _room_of_graphs(self, latent_size: Sequence[int]) -> float:
        """Bytes that recorded steps may take, beside which latents of (height, width) are still decoded whole: what a
        recording changes is the time alone.
        """
        vae = self.model.info.config.vae
        size = [side * vae.factor for side in latent_size]
        return self.room() - vae_bytes(vae, size, self.model.placement)

    def fit(self, plan: Plan) -> None:
        """Raise `OutOfMemoryError` before any work for a plan that cannot fit, even with less of the model in memory;
        else leave a model that fits.
        """
        self._wanted = plan.extras
        if changed := self.model.extras.forget_changed(self._wanted):
            self.model.free(*changed)
        while True:
            try:
                return self._check(plan)
            except OutOfMemoryError as error:
                idle = self.model.extras.idle(self._wanted)
                if self.model.graphs or idle:  # graphs, whose memory is for the same work
                    self.model.free(*idle)
                    continue
                if not self.may_shrink or self.smaller is None:
                    raise
                self._warn(str(error).split(";")[0])
            self._replace(self.smaller)

    def most_images(self, plan: Plan, most: int) -> int:
        """How many images like those of a plan fit at once beside the present model: `most`, halved as often as it
        takes, at least 1.
        """
        while most > 1:
            try:
                self._check(plan, math.ceil(_MARGIN * most))
                return most
            except OutOfMemoryError:
                most //= 2
        return 1

    def _check(self, plan: Plan, count: int | None = None) -> None:
        """Raise `OutOfMemoryError` if a plan, for `count` images in place of its own, does not fit."""
        model = self.model
        loads = self.loader is not None and self.may_shrink and model.offload == "stage"
        to_load = max(self.loader.bytes()) if loads and self.loader is not None else 0
        configs = [expert.info.config for expert in model.experts]
        beside, once = model.missing_bytes(plan.extras)
        left = self.room() - beside - max(to_load, once)  # what runs once is released before the UNet is loaded
        for each in plan.passes:
            branches, images = len(each.guider.names), len(plan.seeds) if count is None else count
            check_memory(each.size, images, branches, configs, model.placement, left, self.smaller)

    def retry(self, work: Callable[[Model], T]) -> T:
        """The result of `work` on the present model; where memory runs out, again without networks of earlier requests,
        and where the model may shrink on one with less in memory, as long as there is one.
        """
        smaller: str | None = None
        while True:
            try:
                if smaller is not None:
                    self._replace(smaller)
                    smaller = None
                with self._unchanged_files():
                    return work(self.model)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error)  # not an error, which would keep this frame when it is raised, and so the model
            # here nothing holds intermediate results any more
            graphs = self.model.graphs
            if graphs is not None and graphs.recordings() and not self.model.is_compiled:  # nobody has asked for them
                graphs.stop("memory ran out")
                continue
            idle = self.model.extras.idle(self._wanted)
            self.model.free(*idle)
            if idle:
                continue
            smaller = self.smaller
            if not self.may_shrink or smaller is None:
                raise self.shortage(reason)
            self._warn(f"memory ran out with offload {self.model.offload}")

    @contextmanager
    def _unchanged_files(self) -> Iterator[None]:
        """Raise `CheckpointError` if a file was written to, before or within, whose weights are used where they lie."""
        if self.loader is not None:
            self.loader.check_unchanged()
        yield
        if self.loader is not None:
            self.loader.check_unchanged()
        check_files(extra.component for extra in self._wanted)

    def shortage(self, reason: str) -> OutOfMemoryError:
        """The error for a user where memory has run out, for a reason that torch gives."""
        reason = reason.strip().splitlines()[0] if reason.strip() else "no more is given"
        advice = f"offload {self.smaller}, " if self.smaller else ""
        return OutOfMemoryError(
            f"memory ran out with offload {self.model.offload} ({reason}); try {advice}a smaller size or fewer images "
            "at once"
        )

    @property
    def smaller(self) -> str | None:
        """The next way to keep the model that takes less memory."""
        placement = self.model.placement
        return next_smaller(self.model.offload, placement.device.type, placement.int8)

    def compile(self) -> None:
        """Compile the model for CUDA; on other devices there is nothing to gain. Raises `ArgumentError` where every
        step reads the weights again.
        """
        if self.model.offload == "block":
            raise ArgumentError("a model with offload block cannot be compiled; use none, text or stage")
        device = self.model.placement.device.type
        if device != "cuda":
            warn(f"compile has no effect on {device}: CUDA graphs are CUDA's; leave it out")
            return
        check_compiler(self.model.placement)
        if not self.model.is_compiled:
            self.model = self.model.compiled()

    def prepare_for_many(self) -> None:
        """Before a long job: keep all of the model in memory if "auto" may choose and it fits, and encode every text
        once.
        """
        loader = self.loader
        may_grow = self.may_shrink and self.model.offload == "stage"
        if may_grow and loader is not None and sum(loader.bytes()) + RESERVE < self.room():
            self._replace("none")
        # where a text alone is bound by the launches of its layers
        together = self.model.placement.device.type != "cpu"
        experts = tuple(replace(expert, cache=TextCache(together=together)) for expert in self.model.experts)
        self.model = replace(self.model, experts=experts)
        self.model.extras.most_results = _MOST_RESULTS

    def change(self, changes: Changes) -> None:
        """Load the model again with other changes of its weights. Raises `ArgumentError`."""
        if self.loader is None:
            raise ArgumentError(
                "a pipeline of networks in memory has no files to read weights from; load it with from_pretrained to "
                "change them"
            )
        self.use(self.loader.with_changes(changes))

    def move(self, device: torch.device | None, dtype: torch.dtype | None) -> None:
        """Bring the model to a device or a dtype, or both: from its files, but networks in memory themselves. Raises
        `ArgumentError` and `OutOfMemoryError`.
        """
        at = self.model.placement
        device = device or at.device
        dtype = choose_dtype(dtype or at.dtype, device)
        if (device, dtype) == (at.device, at.dtype):
            return
        if self.loader is not None and not self.loader.trainable:
            offload, loader = self.model.offload, replace(self.loader, device=device, dtype=dtype)
            if device != at.device:
                offload = loader.choose_offload("auto" if self.may_shrink else offload, self.max_memory)
            self.revision += 1
            self._exchange(offload, loader)
            self.model.forget_texts()
            self.retry(lambda model: model.load())
            return
        self.revision += 1
        self.model = self.model.moved(device, dtype)
        if self.loader is not None:
            self.loader = replace(self.loader, device=device, dtype=dtype)

    def use(self, loader: Loader) -> None:
        """Go on with a loader of the same checkpoints that changes other weights: the layers that it changes otherwise
        are loaded again, of the components that are loaded.
        """
        assert self.loader is not None
        old = self.loader
        names = {*old.changes, *old.adapted, *loader.changes, *loader.adapted}
        weights = {name for name in names if old.change(name) != loader.change(name)}
        has_other_words = old.embeddings is not loader.embeddings
        if weights and old.trainable:
            raise ArgumentError("a trainable model is not read from its files again; change its weights in place")
        self.loader = loader
        if not weights and not has_other_words:
            return
        self.revision += 1
        self.model.forget_texts()
        try:
            self._reload(weights)
        except BaseException:
            self._exchange(self.model.offload, old)  # loaded when it is next needed, as it was
            raise

    def _reload(self, weights: set[str]) -> None:
        """Have the present loader's changes of some weights in the model, with as many of its networks as before."""
        loaded = self.model
        # the layers of a compiled one are no longer those that were loaded
        self._exchange(loaded.offload, keep=not loaded.is_compiled)
        if not loaded.is_compiled:
            try:
                self._load_again(loaded, weights)
            except BaseException as error:
                self.model.free_all()  # some layers are changed and others not
                if not (isinstance(error, Exception) and is_out_of_memory(error)):
                    raise
        self.retry(lambda model: model.load())

    def _load_again(self, loaded: Model, weights: set[str]) -> None:
        """Take the networks of a model that are loaded over to the present one, with other changes of some weights."""
        loader, model = self.loader, self.model
        assert loader is not None
        for number, (old, new) in enumerate(zip(loaded.experts, model.experts, strict=True)):
            if (unet := old.unet.loaded) is not None:
                new.unet.adopt(unet)
                loader.load_again(UNET, number, unet, model.offload, weights)
            if (stages := old.text.loaded) is not None:
                encoders = [stage.encoder for stage in stages]
                new.text.adopt(loader.text_stages(number, encoders))
                for name, encoder in zip(new.info.encoders, encoders, strict=True):
                    loader.load_again(name, number, encoder, model.offload, weights)
        if (vae := loaded.vae.loaded) is not None:
            model.vae.adopt(vae)
            loader.load_again(VAE, 0, vae, model.offload, weights)

    def _replace(self, offload: str | None) -> None:
        """Free the present model and load it with another way of keeping it."""
        assert offload is not None
        self._exchange(offload)
        self.model.load()

    def _exchange(self, offload: str, loader: Loader | None = None, keep: bool = False) -> None:
        """Free the present model, unless its networks go on in the new one, which is not loaded yet."""
        loader, old = loader or self.loader, self.model
        assert loader is not None
        new = loader.model(offload, [expert.cache for expert in old.experts])  # may raise, while the old one is whole
        if not keep:
            old.free_all()
        elif old.graphs is not None:
            old.graphs.clear()
        self.loader = loader
        self.model = self._recorded(replace(new, extras=old.extras if keep else old.extras.emptied()))
        if old.is_compiled and offload != "block":
            self.compile()

    def _warn(self, why: str) -> None:
        warn(f"{why}; going on with {self.smaller}, which takes less and is slower")
