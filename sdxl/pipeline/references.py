"""The references of a pipeline: which files their IP-Adapters and image encoders are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..adapters.image_encoder import encoder_hash, find_image_encoder, wanted
from ..adapters.ip_adapter import check_fits, open_ip_adapter
from ..adapters.lookup import checked_hash, find_again
from ..adapters.reference import DEFAULT_SCALE, Reference, read_references
from ..errors import CheckpointError, warn
from ..models.unet_config import UNetConfig
from ..models.vision_config import IPAdapterConfig, VisionConfig
from ..weights.component import Component
from .extra_networks import Extra
from .reference_images import ReferenceImages
from .window import OUTSIDE, Window

if TYPE_CHECKING:
    from .plan import Plan


@dataclass(frozen=True)
class ActiveReference:
    """A reference of a plan with its networks. `scales` are those of the UNet's transformer blocks, in the order in
    which they run.
    """

    reference: Reference
    images: ReferenceImages
    adapter: Extra
    encoder: Extra
    scales: tuple[float, ...]
    window: Window

    @property
    def config(self) -> IPAdapterConfig:
        """What the adapter is."""
        config = self.adapter.component.config
        assert isinstance(config, IPAdapterConfig)
        return config

    @property
    def name(self) -> str:
        """As warnings have it."""
        return f"reference {self.reference.adapter}"

    def idle(self, steps: range) -> str | None:
        """Why it does nothing in these steps; None where a block sees it in one."""
        if not any(self.scales):
            return "its scales are 0"
        return None if any(map(self.window.acts, steps)) else OUTSIDE

    @property
    def acts_at_all(self) -> bool:
        """Whether any block sees it in any step."""
        return any(self.scales) and not self.window.is_empty

    @property
    def extras(self) -> tuple[Extra, ...]:
        """The networks that it needs."""
        return (self.encoder, self.adapter) if self.acts_at_all else ()

    def record(self, number: int) -> dict[str, object]:
        """What a PNG records of it for image `number`."""
        entries = self.reference.images
        own = entries[number * len(entries) // len(self.images.images)]
        shown = replace(self.reference, image=own, image_hash=self.images.hash(number))
        return shown.record()


@dataclass
class References:
    """Opens the files of references, each once; several adapters share an image encoder. Names are looked for in
    `folders`.
    """

    folders: Sequence[Path] = ()
    _adapters: dict[Path, tuple[str, Extra]] = field(default_factory=dict)  # each with its hash
    _encoders: dict[tuple[str, VisionConfig], Extra] = field(default_factory=dict)  # by hash
    _found: dict[tuple[object, ...], tuple[Component, str]] = field(default_factory=dict)  # by what was asked

    def open(self, plan: Plan, unet: UNetConfig) -> tuple[ActiveReference, ...]:
        """The references of a plan whose images are opened, for a UNet. Raises `CheckpointError`, `HubError` and
        `ArgumentError`; warns of a scale that does nothing.
        """
        pairs = zip(read_references(plan.request.reference or ()), plan.sources.references, strict=True)
        opened = tuple(self._open(reference, own, unet, plan.steps) for reference, own in pairs)
        for each in opened:
            if isinstance(each.reference.only, Mapping) and each.reference.scale != DEFAULT_SCALE:
                why = "its only has scales of its own"
                warn(f"scale has no effect for {each.name}: {why}")
        return opened

    def _open(self, reference: Reference, images: ReferenceImages, unet: UNetConfig, steps: int) -> ActiveReference:
        path, adapter, hash = self._adapter(reference)
        check_fits(adapter.component, unet, path)  # before an encoder is looked for
        encoder, encoder_hash = self._encoder(path, reference, adapter)
        return ActiveReference(
            replace(reference, hash=hash, encoder_hash=encoder_hash),
            images,
            adapter,
            encoder,
            tuple(reference.scales(unet.block_names())),
            Window(reference.start, reference.end, steps),
        )

    def located(self, reference: Reference) -> Reference:
        """The same with the path of its adapter and the hashes of its files. Raises as `open` does."""
        path, adapter, hash = self._adapter(reference)
        _, encoder_hash = self._encoder(path, reference, adapter)
        return replace(reference, adapter=path.absolute(), hash=hash, encoder_hash=encoder_hash)

    def _adapter(self, reference: Reference) -> tuple[Path, Extra, str]:
        """Where the adapter of a reference lies, the adapter, and its hash."""
        path = find_again(reference.adapter, reference.hash, self.folders, "IP-Adapter")
        hash = checked_hash(path, reference.hash)
        known = self._adapters.get(path)
        if known is None or known[0] != hash:
            known = self._adapters[path] = hash, Extra(open_ip_adapter(path), runs_once=True)
        return path, known[1], hash

    def _encoder(self, path: Path, reference: Reference, adapter: Extra) -> tuple[Extra, str]:
        """The image encoder for a reference whose adapter lies at `path`, and the hash of its files."""
        asked = path, reference.encoder, reference.encoder_hash
        if asked not in self._found or not _is_current(*self._found[asked]):
            assert isinstance(adapter.component.config, IPAdapterConfig)
            need, given = wanted(adapter.component.config), reference.encoder
            self._found[asked] = find_image_encoder(path, need, given, self.folders, reference.encoder_hash)
        component, hash = self._found[asked]
        assert isinstance(component.config, VisionConfig)
        shared = self._encoders.get((hash, component.config))
        if shared is None or not _is_current(shared.component, hash):
            shared = Extra(component, runs_once=True)
            others = {key: each for key, each in self._encoders.items() if each.paths != shared.paths}
            self._encoders = {**others, (hash, component.config): shared}
        return shared, hash


def _is_current(encoder: Component, hash: str) -> bool:
    """Whether the files are as they were opened."""
    try:
        return encoder_hash(encoder) == hash
    except CheckpointError:
        return False
