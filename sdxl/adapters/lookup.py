"""Where an adapter file lies: a path, a name in a folder of adapters, or a file on the hub. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from ..errors import ArgumentError, CheckpointError
from ..weights import hub
from ..weights.container import TensorFile
from ..weights.folder import WEIGHTS
from ..weights.hash_cache import find_paths
from ..weights.hashes import file_hash, tensor_hash
from ..weights.keymap import UNET
from ..weights.library import composed, walk, weights_in
from ..weights.nearby import hint_of
from ..weights.path import expanded

HASHES = {"file": "hash", "net": "hash", "adapter": "hash", "encoder": "encoder_hash"}
"""What a record of a LoRA, control or reference calls its files, and the hash of each."""
_SUFFIX = ".safetensors"
_WEIGHTED = re.compile(r"(.+)[:=@,]\s*(-?[0-9.]+)")  # of other programs, and what people try


def own_folders(path: str | os.PathLike[str] | None, name: str) -> list[Path]:
    """The folder of the argument `name`, such as lora_dir, or none. A wrong one would leave the words that it knows
    without a meaning, so it raises `ArgumentError`.
    """
    if path is None:
        return []
    folder = expanded(path)
    if not os.path.isdir(folder):
        raise ArgumentError(f"{name} is {path}, which is no folder; give the folder of the files")
    return [folder]


def find_file(name: str | Path, folders: Sequence[Path], what: str) -> Path:
    """The file of a path, of a name in one of the folders (with or without the ending, or the name that its training
    gave it), or of owner/name or owner/name/file on the hub. `what` it is, such as LoRA, is for the errors. Raises
    `CheckpointError` and `HubError`.
    """
    path = expanded(name)
    if os.path.isfile(path):
        return path
    if os.path.isdir(path):
        return only_file(path, what)
    found = _in_folders(str(name), folders)
    if len(found) > 1:
        raise CheckpointError(
            f"{name} is the name of {len(found)} files: {found[0]} and {found[1]}; give the path of one"
        )
    if found:
        return found[0]
    if hub.is_hub_name(hub.name_of(name)) and (what != "LoRA" or _WEIGHTED.fullmatch(str(name)) is None):
        return hub.resolve(name)
    raise CheckpointError(f"the {what} {name} does not exist; {_hint(str(name), folders, what)}")


def find_network(name: str | Path, folders: Sequence[Path], what: str, variant: str | None = None) -> Path:
    """As `find_file`, for a network that may be a diffusers folder too: a path, a name in one of the folders, or
    owner/name on the hub, of whose files those of a `variant` are downloaded.
    """
    path = expanded(name)
    for place in (path, *(folder / path for folder in folders)):
        if os.path.isfile(place / "config.json"):
            return place
    is_id = hub.is_hub_name(hub.name_of(name)) and path.suffix != _SUFFIX
    if is_id and not os.path.exists(path) and not _in_folders(str(name), folders):
        return hub.resolve(name, None, variant, part=UNET)
    return find_file(name, folders, what)


def find_named(name: str, folders: Sequence[Path], what: str) -> Path:
    """The file of a name in one of the folders, and nowhere else: for names in prompts, which others may have written.
    They are compared with the names that are there, and never asked for. Raises `CheckpointError`.
    """
    found = named_files(name, folders)
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(f"{name} is the name of {len(found)} files: {found[0]} and {found[1]}; rename one")
    if not folders:
        raise CheckpointError(f"the {what} {name} is looked for in a folder, and none is given; give lora_dir")
    close = _close(name, adapter_files(folders))
    places = ", ".join(map(str, folders))
    raise CheckpointError(f"the {what} {name} does not exist; {close or f'put a file of this name into {places}'}")


def named_files(name: str, folders: Sequence[Path]) -> list[Path]:
    """The files of a name in the folders: the one that has it below them, else all that have it anywhere."""
    listed = [(path, path.relative_to(folder).as_posix()) for folder in folders for path in adapter_files([folder])]
    files = [(path, composed(below)) for path, below in listed]
    exact = [path for path, below in files if composed(name) in (below, below.removesuffix(_SUFFIX))]
    return exact[:1] or _by_name(name, [path for path, _ in files])


def only_file(folder: Path, what: str) -> Path:
    """The file of a folder with one, such as PEFT writes."""
    files = sorted(folder.glob(WEIGHTS))
    if len(files) != 1:
        raise CheckpointError(f"{folder} has {len(files)} {_SUFFIX} files; give the path of one as the {what}")
    return files[0]


def _in_folders(name: str, folders: Sequence[Path]) -> list[Path]:
    for folder in folders:
        direct = [folder / name, folder / f"{name}{_SUFFIX}"]
        if found := next((path for path in direct if os.path.isfile(path)), None):
            return [found]
    return _by_name(name, list(adapter_files(folders)))


def _by_name(name: str, files: Sequence[Path]) -> list[Path]:
    """The files of a name, or of the name that their training gave them."""
    return [path for path in files if composed(name) in map(composed, (path.name, path.stem))] or [
        path for path in files if _title(path) == name
    ]


def adapter_files(folders: Sequence[Path]) -> Iterator[Path]:
    """The safetensors files in folders and below them, also behind links, in the order of their paths."""
    for folder in folders:
        yield from sorted(path for place, _, names in walk(folder) for path in weights_in(place, names))


def find_by_hash(sha256: str, folders: Sequence[Path]) -> Path | None:
    """A file with a hash: one that was hashed before, or one in the folders."""
    sha256 = sha256.lower()  # sites show capitals
    known = (path for path in find_paths(sha256) if path.is_file())
    candidates = (path for path in adapter_files(folders) if has_hash(path, sha256))
    return next(known, None) or next(candidates, None)


def has_hash(path: Path, sha256: str) -> bool:
    """Whether the hash of a file, or of its bytes behind the header, begins with `sha256`: tools record either."""
    if file_hash(path).startswith(sha256):
        return True
    try:
        return tensor_hash(path).startswith(sha256)
    except CheckpointError:
        return False


def find_again(file: str | Path, hash: str | None, folders: Sequence[Path], what: str) -> Path:
    """The file of a name; where it is gone, another one with its hash."""
    try:
        return find_file(file, folders, what)
    except CheckpointError:
        if hash is None or (found := find_by_hash(hash, folders)) is None:
            raise
        return found


def checked_hash(path: Path, expected: str | None) -> str:
    """The sha256 of a file. Raises `CheckpointError` if it is not the expected one."""
    hash = file_hash(path)
    if expected is not None and not hash.startswith(expected.lower()):
        raise CheckpointError(
            f"{path} is not the file that is asked for: its hash begins with {hash[:12]}, expected {expected[:12]}; "
            "give the right file, or leave the hash out"
        )
    return hash


def _title(path: Path) -> str | None:
    """The name that kohya's scripts have given to a file, which stays when the file is renamed."""
    try:
        return TensorFile(path).metadata.get("ss_output_name")
    except CheckpointError:
        return None


def _hint(name: str, folders: Sequence[Path], what: str) -> str:
    if what == "LoRA" and (weighted := _WEIGHTED.fullmatch(name)):
        file, weight = weighted.groups()
        return f"its weight is given as {file},weight={weight}, in Python as ({file!r}, {weight})"
    if close := _close(name, adapter_files(folders)):
        return close
    if near := hint_of(name):
        return near
    where = f"there is none of this name in {', '.join(map(str, folders))}, " if folders else ""
    return f"{where}give the path of a {_SUFFIX} file, a name in a folder of {what}s, or owner/name of the hub"


def _close(name: str, files: Iterable[Path]) -> str:
    """The files whose names are like one, as advice; empty if there are none."""
    found = get_close_matches(Path(name).stem, [path.stem for path in files], n=3)
    return f"perhaps {' or '.join(found)} is meant" if found else ""
