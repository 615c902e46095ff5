"""The user's library of models: the folder that the environment variable SDXL_MODELS_DIR names."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from ..errors import CheckpointError, warn
from .folder import list_some
from .hash_cache import find_paths
from .hashes import known_model_hash, model_hash
from .keymap import UNET
from .nearby import folder_fault
from .path import expanded
from .weight_files import STEMS, folder_files, variants

VARIABLE = "SDXL_MODELS_DIR"
_SUFFIX = ".safetensors"
_MUCH = 10**9  # bytes that are not read without a warning


def find_model(name: str | os.PathLike[str]) -> Path | None:
    """The .safetensors file or diffusers folder that a plain `name` has in the library or in a folder of it, with or
    without the ending. None if there is none, or if the name has a slash. Raises `CheckpointError` for several.
    """
    name = composed(os.fspath(name))
    if not _is_plain(name):
        return None
    found = [path for path in _models() if name in (composed(path.name), _stem(path.name))]
    found = [path for path in found if composed(path.name) == name] or found
    found = list({os.path.realpath(path): path for path in found}.values())
    if len(found) > 1:
        places = list_some([str(path) for path in found])
        raise CheckpointError(
            f"{name} is the name of {len(found)} models in {VARIABLE}: {places}; give the path of one"
        )
    return found[0] if found else None


def find_similar(name: str) -> Path | None:
    """The only model of the library whose name has the same letters and digits: other tools and sites write `Some Model
    v1.0` for `someModel_v10`.
    """
    found = [path for path in _models() if _letters(_stem(path.name)) == _letters(_stem(name))]
    return found[0] if len(found) == 1 and _letters(name) else None


def folder() -> Path | None:
    """The folder of the library, if the user has one."""
    value = os.environ.get(VARIABLE)
    return expanded(value) if value else None


def places(folders: Sequence[Path]) -> list[Path]:
    """Folders in which files are looked for by name, and behind them the library."""
    own = folder()
    return [*folders, *([own] if own is not None and own not in folders else [])]


def count() -> int:
    """How many models the library has."""
    return sum(1 for _ in _models())


def absence(name: str) -> str:
    """For an error message: that a plain name is not in the library, and which names there are like it."""
    place = folder()
    if place is None or not _is_plain(name):
        return ""
    if fault := folder_fault(place):
        return f", and {VARIABLE} is {place}, which {fault}"
    close = get_close_matches(_stem(name), sorted({_stem(path.name) for path in _models()}), n=3)
    return f" and is not in {VARIABLE} ({place}){f', which has {list_some(close)}' if close else ''}"


def find_by_hash(sha256: str, name: str = "", thorough: bool = True) -> Path | None:
    """The model whose hash is or begins with `sha256`, from the user's cache of hashes or the library. Models of the
    library whose hash is not known are read once: those with the file name `name`, and if it is `thorough` the others,
    with a warning.
    """
    sha256 = sha256.lower()  # sites show capitals
    if known := next(iter(find_paths(sha256)), None):
        return known
    candidates = [(path, files) for path in _models() for files in _choices(path)]
    for path, files in candidates:
        if (known_model_hash(path, files) or "").startswith(sha256):
            return path
    unread = [(path, files) for path, files in candidates if known_model_hash(path, files) is None]
    named = [each for each in unread if _stem(each[0].name) == _stem(name)]
    others = [each for each in unread if each not in named]
    return _search(sha256, named) or (_search_all(sha256, others) if thorough else None)


def _search_all(sha256: str, models: list[tuple[Path, list[str]]]) -> Path | None:
    size = sum(os.path.getsize(path / name) for path, files in models for name in (files or [""]))
    if size > _MUCH:
        warn(
            f"the model with the hash {sha256[:10]} is looked for in {VARIABLE}: {len(models)} models of "
            f"{size / 1e9:.3g} GB are read once"
        )
    return _search(sha256, models)


def _search(sha256: str, models: list[tuple[Path, list[str]]]) -> Path | None:
    for path, files in models:
        try:
            if model_hash(path, files).startswith(sha256):
                return path
        except CheckpointError:  # it may not be read
            continue
    return None


def _choices(path: Path) -> Iterator[list[str]]:
    """The sets of weight files of a folder, one for each variant; of a file the empty one."""
    if not os.path.isdir(path):
        yield []
        return
    names = os.listdir(path / UNET) if os.path.isdir(path / UNET) else []
    sets = [tuple(folder_files(path, variant)[1]) for variant in (None, "fp16", *variants(names, STEMS[UNET]))]
    yield from map(list, dict.fromkeys(each for each in sets if each))


def _models() -> Iterator[Path]:
    """The files and diffusers folders of the library."""
    root = folder()
    for place, folders, files in walk(root) if root else ():
        if "model_index.json" in files:
            folders.clear()
            yield place
            continue
        yield from weights_in(place, files)


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As `os.walk`, in the order of names, through links too and past hidden folders. A folder to which links lead back
    counts once.
    """
    seen = {os.path.realpath(root)}
    for place, folders, files in os.walk(root, followlinks=True):
        inside = {os.path.realpath(os.path.join(place, name)): name for name in sorted(folders) if name[0] != "."}
        folders[:] = [name for real, name in inside.items() if real not in seen]
        seen |= inside.keys()
        yield Path(place), folders, sorted(files)


def weights_in(place: Path, names: Iterable[str]) -> Iterator[Path]:
    """The safetensors files among the names in a folder; a hidden file and a link to nothing are none."""
    paths = (place / name for name in names if not name.startswith("."))
    yield from (path for path in paths if path.suffix == _SUFFIX and os.path.isfile(path))


def composed(name: str) -> str:
    """A name with each letter and its accents as one character. macOS takes both forms for the same name, and lists the
    form in which a file was made.
    """
    return unicodedata.normalize("NFC", name)


def _is_plain(name: str) -> bool:
    return bool(name) and Path(name).name == name


def _stem(name: str) -> str:
    return composed(Path(name).name).removesuffix(_SUFFIX)


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
