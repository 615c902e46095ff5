"""The adapters of a pipeline: which LoRAs and embeddings are active, and what they change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..adapters.adapter import Adapter, read_adapter, sidecar
from ..adapters.changes import make_changes
from ..adapters.lookup import find_file
from ..adapters.lora import LoRA
from ..adapters.matching import Host, Match, make_host, match
from ..adapters.report import AdapterReport, report_adapter
from ..errors import CheckpointError
from ..weights.checkpoint import Checkpoint
from ..weights.hashes import file_hash
from .loading import PREFIXES, Changes


@dataclass(frozen=True)
class ActiveLoRA:
    """A LoRA of a pipeline with the report of its file: `modules` counts those that it changes in each component."""

    lora: LoRA
    path: Path
    modules: Mapping[str, int]
    unknown: Sequence[str]
    report: AdapterReport


class Adapters:
    """Opens adapter files for the models of some checkpoints, each once. `folders` are searched for names."""

    def __init__(self, checkpoints: Sequence[Checkpoint], folders: Sequence[Path] = ()) -> None:
        self._checkpoints, self._folders = checkpoints, folders
        self._hosts: list[Host] = []
        self._matches: dict[str, tuple[str, Match]] = {}  # by the hash of the file, beside what its sidecar says

    def resolve(self, loras: Sequence[LoRA]) -> tuple[LoRA, ...]:
        """LoRAs with the hashes of their files, which are opened and held against the model. Raises
        `CheckpointError`.
        """
        return tuple(self._resolve(lora) for lora in loras)

    def _resolve(self, lora: LoRA) -> LoRA:
        path = find_file(lora.file, self._folders, "LoRA")
        hash = file_hash(path)
        if lora.hash is not None and not hash.startswith(lora.hash.lower()):
            raise CheckpointError(
                f"{path} is not the file that is asked for: its hash begins with {hash[:12]}, expected "
                f"{lora.hash[:12]}; give the right file, or leave the hash out"
            )
        beside = sidecar(path)
        if hash not in self._matches or self._matches[hash][0] != beside:
            self._matches[hash] = beside, match(read_adapter(path), self._all_hosts())
        return replace(lora, hash=hash)

    def _all_hosts(self) -> list[Host]:
        self._hosts = self._hosts or [make_host(checkpoint.components) for checkpoint in self._checkpoints]
        return self._hosts

    def changes(self, loras: Sequence[LoRA]) -> Changes:
        """The changes of weights by resolved LoRAs."""
        return make_changes([(lora, str(lora.hash), self._match(lora)) for lora in loras], PREFIXES)

    def _match(self, lora: LoRA) -> Match:
        return self._matches[str(lora.hash)][1]

    def reports(self, loras: Sequence[LoRA]) -> tuple[ActiveLoRA, ...]:
        """What resolved LoRAs change."""
        return tuple(self._report(lora, self._match(lora)) for lora in loras)

    def _report(self, lora: LoRA, matched: Match) -> ActiveLoRA:
        counts: dict[str, int] = {}
        for pair in matched.pairs:
            name = PREFIXES[matched.host] + pair.target.component
            counts[name] = counts.get(name, 0) + 1
        adapter: Adapter = matched.adapter
        return ActiveLoRA(lora, adapter.path, counts, matched.unknown, report_adapter(adapter))
