"""The hashes of a model's files, which are computed beside its work and recorded with its images."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ..errors import CheckpointError, warn
from ..weights.hashes import model_hash
from .recorded_model import RecordedModel


class PendingHash:
    """The hash of a model, which a thread computes beside other work."""

    def __init__(self, path: str | os.PathLike[str], files: Sequence[str] = ()) -> None:
        self._path, self._files = path, tuple(files)
        self._value: str | None = None
        self._thread = threading.Thread(target=self._compute_aside, daemon=True)
        self._thread.start()

    def _compute(self) -> None:
        try:
            self._value = model_hash(self._path, self._files)
        except CheckpointError:  # the error of loading the file is the one to see
            self._value = ""

    def _compute_aside(self) -> None:
        with suppress(MemoryError):  # `result` computes it when there may be more memory
            self._compute()

    def result(self) -> str:
        """The hash, when it is there; empty if the files cannot be read."""
        self._thread.join()
        if self._value is None:  # memory ran out, or the process was forked: a fork has no other threads
            self._compute()
        return self._value or ""

    def __reduce__(self) -> tuple[object, ...]:
        return PendingHash, (self._path, self._files)


@dataclass(frozen=True)
class ModelHashes:
    """The hashes of a model's files by field of `ModelRequest`, and those that an image records of them."""

    pending: Mapping[str, PendingHash] = field(default_factory=dict)
    expected: Mapping[str, RecordedModel] = field(default_factory=dict)

    def record(self) -> dict[str, dict[str, str]]:
        """What a PNG records: the hashes under "sha256". Waits for them, and warns of each that is not the expected."""
        hashes = {name: sha256 for name, each in self.pending.items() if (sha256 := each.result())}
        for name, recorded in self.expected.items():
            if not hashes.get(name, recorded.sha256).startswith(recorded.sha256):
                warn(
                    f"the {name} {recorded} has the hash {hashes[name][:10]} and not {recorded.sha256[:10]}, which the "
                    "image records; the result will differ"
                )
        return {"sha256": hashes} if hashes else {}
