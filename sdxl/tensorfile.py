"""Safetensors files on disk: opened by their header alone, tensors mapped into memory when they are asked for."""

from __future__ import annotations

import json
import math
import mmap
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from .errors import CheckpointError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")


class TensorFile:
    """One file: `shapes`, `dtypes` and `metadata` from its header."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _refuse_foreign(path)
        try:
            with safe_open(path, "np") as file:
                self.metadata: dict[str, str] = file.metadata() or {}
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
                self.shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
                self.dtypes = {key: str(part.get_dtype()) for key, part in slices.items()}
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} cannot be read as safetensors ({error}); it is truncated or damaged, fetch it again"
            ) from error
        self._map: mmap.mmap | None = None
        self._offsets: dict[str, int] = {}

    def read(self, key: str) -> Tensor:
        """The tensor, a view of the mapped file."""
        import torch

        dtype = getattr(torch, _DTYPES.get(self.dtypes[key], ""), None)
        if dtype is None:
            raise CheckpointError(f"{self.path}: {key} is of type {self.dtypes[key]}, which is no dtype of torch")
        shape = self.shapes[key]
        count = math.prod(shape)
        if not count:
            return torch.empty(shape, dtype=dtype)
        self._open()
        assert self._map is not None
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=self._offsets[key]).reshape(shape)

    def _open(self) -> None:
        """Map the file. Its header was checked when this object was made."""
        if self._map is not None:
            return
        try:
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path} cannot be read ({error}); fetch the file again") from error
        self._offsets = {key: 8 + length + header[key]["data_offsets"][0] for key in self.shapes}

    def forget(self) -> None:
        """Give back the memory of what has been read; a tensor that is still in use reads itself again."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let go of the mapping; tensors read from it stay valid."""
        self._map = None


def _refuse_foreign(path: Path) -> None:
    """A clear sentence for what is not a safetensors file at all."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; check the path")
    try:
        with path.open("rb") as file:
            head = file.read(64)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if path.suffix in _PICKLE_SUFFIXES or head[:2] == b"PK" or head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04"):
        raise CheckpointError(
            f"{path} is a pickle, which can run code when it is opened; only .safetensors files are read, "
            "get the model in that format"
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer and not the weights; fetch them with git lfs pull")
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:9] != b"{" or length > 10**9:
        raise CheckpointError(f"{path} is not a safetensors file; check where it came from")
    if 8 + length > size:
        raise CheckpointError(
            f"{path} is truncated: its header says {length} bytes, the file has {size}; fetch it again"
        )


class Weights(Mapping[str, tuple[int, ...]]):
    """The tensors of one or several files (shards) under canonical keys: a mapping from key to shape."""

    def __init__(self, files: list[TensorFile], rename: Callable[[str], str] = str) -> None:
        self.files = files
        self._places: dict[str, tuple[TensorFile, str]] = {}
        for file in files:
            for key in file.shapes:
                name = rename(key)
                if name in self._places:
                    raise CheckpointError(
                        f"{key} stands both in {self._places[name][0].path} and in {file.path}; remove one of them"
                    )
                self._places[name] = (file, key)

    @property
    def where(self) -> str:
        """The files, for an error message."""
        return ", ".join(str(file.path) for file in self.files)

    def __getitem__(self, key: str) -> tuple[int, ...]:
        file, name = self._places[key]
        return file.shapes[name]

    def __iter__(self) -> Any:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def dtype(self, key: str) -> str:
        """As the file names it: F16, BF16, F32, ..."""
        file, name = self._places[key]
        return file.dtypes[name]

    def read(self, key: str) -> Tensor:
        """The tensor, a view of the mapped file."""
        file, name = self._places[key]
        return file.read(name)

    def forget(self) -> None:
        """Give back the memory of what has been read."""
        for file in self.files:
            file.forget()

    def close(self) -> None:
        """Let go of the mappings."""
        for file in self.files:
            file.close()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; fetch the model again") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); fetch it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is not a JSON object; fetch it again")
    return data


def weight_files(names: list[str], stem: str, variant: str | None) -> list[str]:
    """Which of the files of a component's folder to read: the variant if there is one, else the plain one."""
    for middle in [f".{variant}", ""] if variant else [""]:
        for name in (f"{stem}{middle}.safetensors", f"{stem}.safetensors.index{middle}.json"):
            if name in names:
                shards = re.compile(re.escape(stem) + re.escape(middle) + r"-\d+-of-\d+" + r"\.safetensors")
                older = re.compile(re.escape(stem) + r"-\d+-of-\d+" + re.escape(middle) + r"\.safetensors")
                matching = [other for other in names if shards.fullmatch(other) or older.fullmatch(other)]
                return [name, *(matching if name.endswith(".json") else [])]
    return []


def open_shards(index: Path) -> list[TensorFile]:
    """The files of a sharded model, from its `.safetensors.index.json`."""
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{index} has no weight_map; fetch it again")
    names = sorted({str(name) for name in table.values()})
    if bad := [name for name in names if Path(name).name != name]:
        raise CheckpointError(f"{index} names a shard outside its folder: {bad[0]!r}; do not trust this model")
    if gone := [name for name in names if not (index.parent / name).is_file()]:
        raise CheckpointError(f"{index.parent / gone[0]} is missing: a shard that {index.name} names; fetch it")
    files = [TensorFile(index.parent / name) for name in names]
    present = {key for file in files for key in file.shapes}
    if lost := sorted(set(table) - present):
        raise CheckpointError(f"{index} promises {len(lost)} tensors that no shard has, such as {lost[0]}; fetch again")
    return files


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file: to a temporary name first, so that no half file can be taken for a whole one."""
    from safetensors.torch import save_file

    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        os.close(handle)
        save_file(dict(tensors), temporary, {"format": "pt", **metadata})
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error}; choose another place or free some space") from error
