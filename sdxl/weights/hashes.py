"""SHA-256 hashes of models: of files, of folders, and of the tensors in a file. Each is computed once, and kept in the
user's cache of hashes; the hub's cache states those of its files.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import CheckpointError
from .hash_cache import Kind, observe, recall, remember
from .path import AnyPath, expanded

_CHUNK = 2**20
_BLOB = re.compile("[0-9a-f]{64}")  # the name of a large file in the hub's cache: its hash


def file_hash(path: AnyPath) -> str:
    """The SHA-256 of a file's bytes. Raises `CheckpointError`."""
    where = expanded(path)
    return _hub_hash(where) or _cached("file", where, (), lambda: _digest(where, 0))


def tensor_hash(path: AnyPath) -> str:
    """The SHA-256 of the bytes behind a safetensors file's header, by which AUTOMATIC1111 knows a LoRA: other metadata
    do not change it. Raises `CheckpointError`.
    """
    where = expanded(path)
    return _cached("tensors", where, (), lambda: _digest(where, 8 + _header_bytes(where)))


def model_hash(path: AnyPath, files: Sequence[str] = ()) -> str:
    """The hash of a model or component at `path`: a file's, or that of a folder with weight `files` (names relative to
    it). This is the hash of the text that `sha256sum` prints for the sorted names. Raises `CheckpointError`.
    """
    if not files:
        return file_hash(path)
    names = sorted(files)
    return known_model_hash(path, names) or _cached(
        "folder", path, names, lambda: _folder_digest(names, [file_hash(Path(path) / name) for name in names])
    )


def known_model_hash(path: AnyPath, files: Sequence[str] = ()) -> str | None:
    """As `model_hash`, if it is known without reading the files."""
    if not files:
        return _hub_hash(path) or _lookup("file", path, ())
    names = sorted(files)
    hashes = [_hub_hash(Path(path) / name) for name in names]
    stated = [each for each in hashes if each]
    return _folder_digest(names, stated) if len(stated) == len(names) else _lookup("folder", path, names)


def _folder_digest(names: Sequence[str], hashes: Sequence[str]) -> str:
    text = "".join(f"{sha256}  {name}\n" for sha256, name in zip(hashes, names, strict=True))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _hub_hash(path: AnyPath) -> str | None:
    """The hash of a file of the hub's cache: the name of the file that it is a link to."""
    real = Path(os.path.realpath(path))
    return real.name if real.parent.name == "blobs" and _BLOB.fullmatch(real.name) and real.is_file() else None


def _lookup(kind: Kind, path: AnyPath, files: Sequence[str]) -> str | None:
    """A hash from the user's cache."""
    try:
        return recall(observe(kind, path, files))
    except OSError:
        return None


def _cached(kind: Kind, path: AnyPath, files: Sequence[str], compute: Callable[[], str]) -> str:
    """A hash from the user's cache, else computed and put there."""
    try:
        before = observe(kind, path, files)
        if known := recall(before):
            return known
        sha256 = compute()
        if observe(kind, path, files) == before:  # else it has changed meanwhile
            remember(before, sha256)
        return sha256
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or 'not found'}); check the path") from error


def _header_bytes(path: AnyPath) -> int:
    """The length of a safetensors file's header."""
    with open(path, "rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    if head[8:] != b"{" or 8 + length > os.path.getsize(path):
        raise CheckpointError(f"{path} is not a safetensors file; check its source")
    return length


def _digest(path: AnyPath, start: int) -> str:
    """The SHA-256 of a file's bytes from `start` on."""
    digest, buffer = hashlib.sha256(usedforsecurity=False), memoryview(bytearray(_CHUNK))
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while count := file.readinto(buffer):
            digest.update(buffer[:count])  # meanwhile other threads run
    return digest.hexdigest()
