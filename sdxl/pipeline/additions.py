"""What a pipeline adds to its model: LoRAs and embeddings, which change it, and the controls and references of a
request, which run beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..adapters.embedding import read_embeddings
from ..adapters.lookup import own_folders
from ..adapters.lora import LoRA, read_loras
from ..errors import ArgumentError
from ..models.unet_config import UNetConfig
from ..weights.info import ModelInfo
from ..weights.keymap import UNET
from .adapters import ActiveEmbedding, Adapters
from .controls import Controls
from .idle import warn_of_idle_images
from .loading import Loader
from .model_request import ModelRequest
from .passes import make_passes
from .plan import Plan
from .prompts import reading_of
from .references import References
from .request import Request
from .tags import missing_loras


@dataclass
class Additions:
    """`loras` are those of every image that names no others, `embeddings` the words with learned vectors. Their files
    are opened by `adapters`; a model of networks in memory has none. `controls` and `references` open the networks of
    a request's.
    """

    controls: Controls
    references: References
    adapters: Adapters | None = None
    loras: tuple[LoRA, ...] = ()
    embeddings: tuple[ActiveEmbedding, ...] = ()

    def open_adapters(self) -> Adapters:
        """The adapters. Raises `ArgumentError` where there are none."""
        if self.adapters is None:
            raise ArgumentError(
                "a pipeline of networks in memory has no files to read weights from, so it takes no LoRAs and no "
                "embeddings; load it with from_pretrained"
            )
        return self.adapters

    def resolve(self, loras: Sequence[LoRA]) -> tuple[LoRA, ...]:
        """LoRAs with the hashes of their files, which are opened. Raises `ArgumentError` and `CheckpointError`."""
        return self.open_adapters().resolve(loras) if loras else ()

    def set_loras(self, loras: tuple[LoRA, ...]) -> None:
        """Have resolved LoRAs for every image that names no others."""
        self.loras = loras
        if self.adapters is not None:
            self.adapters.hold(loras)

    def applied(self, loader: Loader, loras: Sequence[LoRA]) -> Loader:
        """The loader of a model whose weights resolved LoRAs change and no others, and that knows the embeddings."""
        if self.adapters is None:
            return loader
        words = self.adapters.words(self.embeddings, loras)
        return replace(loader, adapted=self.adapters.changes(loras), embeddings=words)

    def plan(self, request: Request, info: ModelInfo, refiner: ModelInfo | None = None) -> Plan:
        """The plan of a request for a model and its refiner, with all that it adds to them opened. Raises
        `ArgumentError`, `CheckpointError` and `HubError`.
        """
        loras = self.loras if request.loras is None else self.resolve(read_loras(request.loras))
        if named := missing_loras(replace(request, loras=loras)):
            loras = (*loras, *self.open_adapters().resolve_named(named))
        families = [] if self.adapters is None else self.adapters.families(loras)
        plan = make_passes(replace(request, loras=loras or None), info, refiner, families)
        plan = self._with_networks(plan, info.config.unet)
        warn_of_idle_images(plan.passes)
        if self.adapters is None:
            return plan
        reading, texts = reading_of(request), [plan.texts_of(n) for n in range(len(request.prompts))]
        used = tuple(self.adapters.used(self.embeddings, loras, own, reading) for own in texts)
        return replace(plan, embeddings=used, lora_hashes=self.adapters.a1111_hashes(loras))

    def _with_networks(self, plan: Plan, unet: UNetConfig) -> Plan:
        """A plan, and that of its second pass, with the controls and references of each opened."""
        plan = replace(plan, controls=self.controls.activate(plan))
        if plan.sources.references:
            plan = replace(plan, references=self.references.open(plan, unet))
        return plan if plan.second is None else replace(plan, second=self._with_networks(plan.second, unet))


def adapter_folders(request: ModelRequest) -> dict[str, list[Path]]:
    """The folders of adapters that a request of a model names, by its fields. Raises `ArgumentError`."""
    return {name: own_folders(getattr(request, name), name) for name in ("lora_dir", "embedding_dir", "control_dir")}


def open_additions(
    request: ModelRequest, loader: Loader, variant: str | None, folders: Mapping[str, list[Path]]
) -> Additions:
    """The LoRAs and embeddings that a request of a model names, opened for its checkpoints, and what opens the networks
    of later requests: by name in the `folders`, the files of a `variant`. Raises `ArgumentError`, `CheckpointError` and
    `HubError`.
    """
    base, nets = loader.checkpoints[0], folders["control_dir"]
    adapters = Adapters(loader.checkpoints, folders["lora_dir"], folders["embedding_dir"])
    additions = Additions(
        Controls(base.info.config.unet, base.components[UNET], nets, variant),
        References(nets),
        adapters,
        embeddings=adapters.open_embeddings(read_embeddings(request.embeddings)),
    )
    additions.set_loras(adapters.resolve(read_loras(request.loras)))
    return additions
