"""The references of a pipeline: which files their IP-Adapters and image encoders are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..adapters.image_encoder import find_image_encoder, wanted
from ..adapters.ip_adapter import check_fits, open_ip_adapter
from ..adapters.lookup import checked_hash, find_again
from ..adapters.reference import DEFAULT_SCALE, Reference, read_references
from ..errors import SDXLWarning
from ..models.unet_config import UNetConfig
from ..models.vision_config import IPAdapterConfig
from ..weights.component import Component
from .reference_images import ReferenceImages
from .window import Window

if TYPE_CHECKING:
    from .plan import Plan


@dataclass(frozen=True)
class ActiveReference:
    """A reference of a plan with its opened files. `scales` are those of the UNet's transformer blocks, in the order in
    which they run.
    """

    reference: Reference
    images: ReferenceImages
    adapter: Component
    encoder: Component
    scales: tuple[float, ...]
    window: Window

    @property
    def config(self) -> IPAdapterConfig:
        """What the adapter is."""
        assert isinstance(self.adapter.config, IPAdapterConfig)
        return self.adapter.config

    @property
    def encoder_name(self) -> str:
        """What identifies its image encoder."""
        return f"{self.encoder.name} {self.encoder.weights.where}"

    @property
    def adapter_name(self) -> str:
        """What identifies its adapter."""
        return f"{self.adapter.name} {self.reference.hash}"

    def record(self, number: int) -> dict[str, object]:
        """What a PNG records of it for image `number`."""
        entries = self.reference.images
        own = entries[number * len(entries) // len(self.images.images)]
        shown = replace(self.reference, image=own, image_hash=self.images.hash(number))
        return shown.record()


@dataclass
class References:
    """Opens the files of references, each once. Names are looked for in `folders`."""

    folders: Sequence[Path] = ()
    _adapters: dict[tuple[Path, str], Component] = field(default_factory=dict)
    _encoders: dict[tuple[Path, object], Component] = field(default_factory=dict)

    def open(self, plan: Plan, unet: UNetConfig) -> tuple[ActiveReference, ...]:
        """The references of a plan whose images are opened, for a UNet. Raises `CheckpointError`, `HubError` and
        `ArgumentError`; warns of those that do nothing.
        """
        pairs = zip(read_references(plan.request.reference or ()), plan.sources.references, strict=True)
        opened = tuple(self._open(reference, own, unet, plan.steps) for reference, own in pairs)
        own_steps = range(len(dict(plan.stages()).get(0, (0.0,))) - 1)  # a refiner sees no reference
        for each in opened:
            if plan.steps and not (any(each.scales) and any(map(each.window.acts, own_steps))):
                why = "no step lies within its start and end" if any(each.scales) else "its scales are 0"
                _warn(f"reference {each.reference.adapter} has no effect: {why}")
            elif isinstance(each.reference.only, Mapping) and each.reference.scale != DEFAULT_SCALE:
                _warn(f"scale has no effect for reference {each.reference.adapter}: its only has scales of its own")
        return opened

    def _open(self, reference: Reference, images: ReferenceImages, unet: UNetConfig, steps: int) -> ActiveReference:
        path = find_again(reference.adapter, reference.hash, self.folders, "IP-Adapter")
        hash = checked_hash(path, reference.hash)
        adapter = self._adapters.get((path, hash)) or open_ip_adapter(path)
        self._adapters[path, hash] = adapter
        check_fits(adapter, unet, path)
        assert isinstance(adapter.config, IPAdapterConfig)
        need = wanted(adapter.config)
        key = path, (reference.encoder, need)
        encoder = self._encoders.get(key) or find_image_encoder(path, need, reference.encoder, self.folders)
        self._encoders[key] = encoder
        return ActiveReference(
            replace(reference, hash=hash),
            images,
            adapter,
            encoder,
            tuple(reference.scales(unet.block_names())),
            Window(reference.start, reference.end, steps),
        )


def _warn(text: str) -> None:
    warnings.warn(text, SDXLWarning, stacklevel=3)
