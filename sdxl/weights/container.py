"""Safetensors files: opening reads the header alone, reading a tensor maps it into memory."""

from __future__ import annotations

import errno
import math
import mmap
import os
import stat
import sys
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, OutOfMemoryError, OutputError, brief, unread_advice
from . import quantized
from .folder import MOST_JSON, load_json, read_json
from .nearby import fault_of
from .part import keep, open_part, put_in_place
from .path import AnyPath, expanded

if TYPE_CHECKING:
    from torch import Tensor

# torch's dtype and the bytes of one number
_DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
_PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
_PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04")  # their first bytes, with or without an archive
_MOST_NAME = 1000  # characters
_MOST_DIMENSIONS = 16
_MOST_SHARDS = 1000
_NUMBERS = 2**63  # torch counts in 64 bits
_NO_RESERVE = 0x4000  # Linux' MAP_NORESERVE, which many versions of Python do not define
_NO_PAGES = (8, 1455)  # Windows' errors for memory that its paging file could not hold, which it promises to all maps
_ENTRY = {"dtype", "shape", "data_offsets"}


class TensorFile:
    """One file: `shapes`, `dtypes` and `metadata` from its header. `bare_values` are the header's entries that are a
    number or a string in place of a tensor, such as an epoch: they are ignored.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path = expanded(path)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self.bare_values: list[str] = []
        self._offsets: dict[str, int] = {}
        self._map: mmap.mmap | None = None
        self.in_use: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()  # maps, which tensors keep when they are closed
        self._address = 0  # of the map
        self._size, length = _measure(path)
        try:
            with path.open("rb") as file:
                self._found = os.fstat(file.fileno())
                file.seek(8)
                header = load_json(file.read(length).decode(), _unique)
            self.metadata = self._metadata(header.pop("__metadata__", None))
            self._index(header, 8 + length)
        except (OSError, ValueError, RecursionError) as error:
            advice = unread_advice(error, "it is truncated or damaged, download it again")
            raise CheckpointError(f"{path} cannot be read as safetensors ({error}); {advice}") from error

    def _metadata(self, table: Any) -> dict[str, str]:
        """The strings of a header's metadata."""
        if table is None:
            return {}
        if not isinstance(table, dict) or not all(map(_is_bare, table.values())):
            raise ValueError("its __metadata__ is not an object of strings")
        strings = {key: value for key, value in table.items() if isinstance(value, str)}
        self.bare_values += [f"__metadata__[{brief(key)}]" for key in table if key not in strings]
        return strings

    def _index(self, header: Mapping[str, Any], start: int) -> None:
        """Store the entries of a header. Their tensors must cover the data from byte `start` on, each byte once."""
        spans = []
        for key, entry in header.items():
            if len(key) > _MOST_NAME or not key.isprintable():
                raise ValueError(f"{brief(key)} is not a valid name of a tensor")
            if _is_bare(entry):
                self.bare_values.append(key)
                continue
            self.dtypes[key], self.shapes[key], begin, end = _entry(key, entry)
            self._offsets[key] = start + begin
            spans.append((begin, end, key))
        expected = 0
        for begin, end, key in sorted(spans):
            if begin != expected:
                raise ValueError(f"{key} begins at byte {begin}, expected {expected}: an overlap or a gap")
            expected = end
        if start + expected != self._size:
            raise ValueError(f"it has {self._size} bytes, its header describes {start + expected}")

    def read(self, key: str) -> Tensor:
        """The tensor, a view of the mapped file."""
        import torch

        dtype = getattr(torch, _DTYPES.get(self.dtypes[key], ("", 0))[0], None)
        if dtype is None:
            raise CheckpointError(
                f"{self.path}: {key} has dtype {brief(self.dtypes[key])}, which this torch does not support; "
                "download the model in another dtype"
            )
        shape = self.shapes[key]
        count = math.prod(shape)
        if not count:
            return torch.empty(shape, dtype=dtype)
        if self._map is None:
            self._map = self._open()
            self._address = torch.frombuffer(self._map, dtype=torch.uint8, count=1).data_ptr()
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=self._offsets[key]).reshape(shape)

    def bytes(self, key: str) -> int:
        """The size of a tensor in the file."""
        return math.prod(self.shapes[key]) * _DTYPES.get(self.dtypes[key], ("", 0))[1]

    def _open(self) -> mmap.mmap:
        """Map the file. The constructor has checked its header."""
        try:
            with self.path.open("rb") as file:
                mapped, found = _map(file.fileno()), os.fstat(file.fileno())
        except (OSError, ValueError) as error:
            is_windows = getattr(error, "winerror", None) in _NO_PAGES
            if is_windows or getattr(error, "errno", None) == errno.ENOMEM:
                advice = "enlarge the paging file" if is_windows else "raise the limit (ulimit -v)"
                raise OutOfMemoryError(
                    f"{self.path} cannot be mapped: the system refuses {self._size / 1e9:.3g} GB of address space; "
                    f"close other programs, or {advice}"
                ) from error
            advice = unread_advice(error, "download the file again")
            raise CheckpointError(f"{self.path} cannot be read ({error}); {advice}") from error
        self._check_state(found)
        self.in_use.add(mapped)
        return mapped

    def _check_state(self, found: os.stat_result) -> None:
        """Raise `CheckpointError` for another state than the constructor has found: also of one size, it has other
        weights.
        """
        if (found.st_size, found.st_mtime_ns) != (self._size, self._found.st_mtime_ns):
            raise CheckpointError(f"{self.path} has changed since it was opened; open the model again")

    def check_unchanged(self) -> None:
        """Raise `CheckpointError` if tensors that were read are in use and the file was written to: they have the new
        weights, or some of both. A file that was replaced or removed stays what it was.
        """
        if not self.in_use:
            return
        with suppress(OSError):
            found = os.stat(self.path)
            if (found.st_dev, found.st_ino) == (self._found.st_dev, self._found.st_ino):
                self._check_state(found)

    def forget(self, *read: Tensor) -> None:
        """Release the memory of these tensors that were read, or of all. A tensor that is still in use is read again on
        access.
        """
        if self._map is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        if not read:
            self._map.madvise(mmap.MADV_DONTNEED)
        for tensor in read:
            begin = tensor.data_ptr() - self._address
            end, begin = begin + tensor.nbytes, begin // mmap.PAGESIZE * mmap.PAGESIZE
            if 0 <= begin < end <= self._size:
                self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def close(self) -> None:
        """Release the mapping; tensors read from it stay valid."""
        self._map = None


def _map(descriptor: int) -> mmap.mmap:
    """A private map of a file, writable because torch requires it. No memory is reserved for writes: the system would
    refuse files that are larger than its memory.
    """
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    flags = mmap.MAP_PRIVATE | (_NO_RESERVE if sys.platform == "linux" else 0)
    return mmap.mmap(descriptor, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _measure(path: Path) -> tuple[int, int]:
    """The bytes of a file and of its header. Raises `CheckpointError` for a file of another format."""
    if not os.path.isfile(path):  # unlike Path.is_file, False for every name that cannot be opened
        fault = fault_of(path)
        raise CheckpointError(f"{path} cannot be read: {fault}" if fault else f"{path} is not a file; check the path")
    try:
        with path.open("rb") as file:
            head = file.read(64)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        advice = unread_advice(error, "check the path and its permissions")
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; {advice}") from error
    # a header's length may begin with the same two bytes
    if path.suffix in _PICKLE_SUFFIXES or (head[:2] in _PICKLES and head[8:9] != b"{"):
        raise CheckpointError(
            f"{path} is a pickle, which can run code when it is opened; only .safetensors files are read, "
            "download the model in that format"
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer and not the weights; download them with git lfs pull")
    if head.startswith(b"GGUF"):
        raise CheckpointError(f"{path} is a GGUF file, not a safetensors file; download the model as .safetensors")
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:9] != b"{":
        raise CheckpointError(f"{path} is not a safetensors file; check its source")
    if 8 + length > size:
        raise CheckpointError(
            f"{path} is truncated: its header takes {length} bytes, the file has {size}; download it again"
        )
    if length > MOST_JSON:
        raise CheckpointError(f"{path} has a header of {length} bytes; expected at most {MOST_JSON}, check its source")
    return size, length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys must be unique: of two tensors of one name, neither is the right one."""
    table = dict(pairs)
    if len(table) != len(pairs):
        keys = sorted(key for key, _ in pairs)
        raise ValueError(f"{brief(next(a for a, b in pairwise(keys) if a == b))} occurs twice")
    return table


def _is_bare(value: Any) -> bool:
    """Whether a value of a header is no object and no list."""
    return value is None or isinstance(value, (str, int, float))


def _entry(key: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """A tensor's dtype and shape, and the begin and the end of its data in bytes."""
    if not isinstance(entry, dict) or entry.keys() != _ENTRY or not isinstance(entry["dtype"], str):
        raise ValueError(f"{key} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _are_numbers(shape) or len(shape) > _MOST_DIMENSIONS or math.prod(filter(None, shape)) >= _NUMBERS:
        raise ValueError(f"{key} has the shape {brief(shape)}")
    if not _are_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{key} has the data_offsets {brief(offsets)}")
    # the size of an unknown dtype cannot be checked; such a tensor may stay unread
    if dtype in _DTYPES and offsets[1] - offsets[0] != (wanted := math.prod(shape) * _DTYPES[dtype][1]):
        raise ValueError(f"{key} has {offsets[1] - offsets[0]} bytes, {dtype} of shape {brief(shape)} takes {wanted}")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _are_numbers(values: Any) -> bool:
    """Whether `values` is a list of whole numbers of at least 0."""
    if not isinstance(values, list) or not {*map(type, values)} <= {int}:
        return False
    return not values or min(values) >= 0


class Weights(Mapping[str, tuple[int, ...]]):
    """The tensors of one or several files (shards) under canonical keys: a mapping from key to shape. A weight in
    float8 with a scale is one tensor, which is read as their product.
    """

    def __init__(self, files: list[TensorFile], rename: Callable[[str], str] = str) -> None:
        self.files = files
        self._sources: dict[str, tuple[TensorFile, str]] = {}
        owners = {key: file for file in files for key in file.shapes}
        shapes = {key: file.shapes[key] for key, file in owners.items()}
        scales = quantized.scales(shapes, {key: file.dtypes[key] for key, file in owners.items()})
        hidden = quantized.beside(shapes, scales)
        self._scales = {rename(key): (owners[scale], scale) for key, scale in scales.items()}
        for file in files:
            for key in file.shapes:
                if key in hidden:
                    continue
                name = rename(key)
                if name in self._sources:
                    raise CheckpointError(
                        f"{key} is both in {self._sources[name][0].path} and in {file.path}; remove one of the files"
                    )
                self._sources[name] = (file, key)

    @property
    def where(self) -> str:
        """The files, for an error message."""
        return ", ".join(str(file.path) for file in self.files)

    def __getitem__(self, key: str) -> tuple[int, ...]:
        file, name = self._sources[key]
        return file.shapes[name]

    def __iter__(self) -> Any:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    @property
    def bare_values(self) -> list[str]:
        """The entries of the headers that are no tensors."""
        return [key for file in self.files for key in file.bare_values]

    def dtype(self, key: str) -> str:
        """The file's name of the dtype: F16, BF16, F32, ..."""
        file, name = self._sources[key]
        return file.dtypes[name]

    def read(self, key: str) -> Tensor:
        """The tensor, a view of the mapped file; one with a scale in memory of its own."""
        tensor, product = self.stored(key), self.product(key)
        return tensor if product is None else product(tensor)

    def stored(self, key: str) -> Tensor:
        """The tensor, a view of the mapped file, without its scale."""
        file, name = self._sources[key]
        return file.read(name)

    def product(self, key: str) -> quantized.Product | None:
        """What makes the weight of a tensor that has a scale."""
        if key not in self._scales:
            return None
        file, name = self._scales[key]
        return quantized.product(self.stored(key), file.read(name))

    def forget(self, *read: Tensor) -> None:
        """Release the memory of these tensors that were read, or of all."""
        for file in self.files:
            file.forget(*read)

    def close(self) -> None:
        """Release the mappings."""
        for file in self.files:
            file.close()


def open_shards(index: Path) -> list[TensorFile]:
    """The files of a sharded model, from its `.safetensors.index.json`."""
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{index} has no weight_map; download it again")
    if any(not isinstance(name, str) for name in table.values()):
        raise CheckpointError(f"{index} has a weight_map whose values are not file names; download it again")
    names = sorted(set(table.values()))
    if len(names) > _MOST_SHARDS:
        raise CheckpointError(
            f"{index} names {len(names)} shards; expected at most {_MOST_SHARDS}, download the model again"
        )
    for name in names:
        if name in ("", "..") or Path(name).name != name or not name.isprintable():
            raise CheckpointError(f"{index} names a shard outside its folder: {brief(name)}; do not trust this model")
        if not os.path.isfile(index.parent / name):
            raise CheckpointError(f"{index.parent / name} is missing, but {index.name} names it; download it")
    files = [TensorFile(index.parent / name) for name in names]
    present = {key for file in files for key in file.shapes}
    if lost := sorted(set(table) - present):
        raise CheckpointError(
            f"{index} names {len(lost)} tensors that no shard has, such as {brief(lost[0])}; download the model again"
        )
    return files


def save_tensors(tensors: Mapping[str, Tensor], path: AnyPath, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file under a temporary name, then rename it: a partial file never has the final name."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path, temporary = expanded(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = open_part(path)
        permissions = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
        save_file(dict(tensors), temporary, {"format": "pt", **metadata})
        with suppress(PermissionError):  # some file systems have no permissions
            os.chmod(temporary, permissions)  # safetensors may put another file there
        keep(temporary)
        put_in_place(temporary, path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} cannot be written: {error}; choose another path or free some space") from error
    finally:  # also where it is interrupted
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
