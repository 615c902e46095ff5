"""Files of textual inversion (arXiv 2208.01618): learned vectors for a word, of both text encoders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..weights.container import TensorFile
from ..weights.families import CONTEXTS
from ..weights.keymap import TEXT, TEXT_2
from ..weights.library import composed
from ..weights.path import AnyPath
from .keys import BUNDLED, EMBEDDINGS

MOST_VECTORS = 75  # what a prompt has room for
_OTHERS = ("emb_params", "string_to_param.*", "*")


@dataclass(frozen=True)
class Inversion:
    """The vectors (N, dim) of a word, by the name of the text encoder. `ignored` are keys that are not read."""

    word: str
    paths: tuple[Path, ...]
    vectors: Mapping[str, Tensor] = field(compare=False, repr=False)
    ignored: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many tokens it takes."""
        return len(self.vectors[TEXT_2])


def read_inversion(paths: Sequence[AnyPath], word: str | None, widths: Mapping[str, int]) -> Inversion:
    """Open an embedding, of one file or diffusers' two, for text encoders of these widths. Raises `CheckpointError`."""
    files = [TensorFile(path) for path in paths]
    names = [file.path for file in files]
    if len(files) == 2:
        own, vectors, ignored = _of_two_files(files, widths)
    else:
        own, vectors, ignored = _of_one_file(files[0], widths)
    missing = [name for name in widths if name not in vectors]
    if missing:
        raise CheckpointError(
            f"{names[0]} has no vectors for the {missing[0]} of width {widths[missing[0]]}; give an embedding of this "
            "model, or both of diffusers' files"
        )
    where = " and ".join(map(str, names))
    checked = {name: _checked(vectors[name], width, where) for name, width in widths.items()}
    if len({len(each) for each in checked.values()}) > 1:
        counts = ", ".join(f"{len(each)} for the {name}" for name, each in checked.items())
        raise CheckpointError(f"{where} has different numbers of vectors, {counts}; download it again")
    return Inversion(word or own or composed(names[0].stem), tuple(names), checked, tuple(ignored))


def _of_one_file(file: TensorFile, widths: Mapping[str, int]) -> tuple[str | None, dict[str, Tensor], list[str]]:
    for first, second in EMBEDDINGS:
        if second in file.shapes:
            found = {TEXT_2: file.read(second)} | ({TEXT: file.read(first)} if first in file.shapes else {})
            return None, found, [key for key in file.shapes if key not in (first, second)]
    key = next((key for key in file.shapes if key in _OTHERS), next(iter(file.shapes), None))
    if key is None:
        raise CheckpointError(f"{file.path} is empty; give an embedding of SDXL")
    if len(file.shapes) == 1 and {*widths} == {TEXT_2} and key not in _OTHERS:
        return key, {TEXT_2: file.read(key)}, []  # of an only text encoder
    if len(file.shapes) > 4:
        raise CheckpointError(
            f"{file.path} has {len(file.shapes)} tensors, such as {key}, and is no embedding; give one with clip_l and "
            "clip_g"
        )
    width = (file.shapes[key] or (0,))[-1]
    other = CONTEXTS.get(width, "one text encoder")
    raise CheckpointError(
        f"{file.path} is an embedding for {other}: {key} has vectors of width {width}, and SDXL takes "
        f"{' and '.join(map(str, widths.values()))}; give one that was trained for SDXL"
    )


def _of_two_files(
    files: Sequence[TensorFile], widths: Mapping[str, int]
) -> tuple[str | None, dict[str, Tensor], list[str]]:
    """diffusers' learned_embeds.safetensors and learned_embeds_2.safetensors, in any order."""
    found: dict[str, Tensor] = {}
    words = []
    for file in files:
        if len(file.shapes) != 1:
            raise CheckpointError(f"{file.path} has {len(file.shapes)} tensors; a pair of embeddings has one in each")
        (key,) = file.shapes
        width = (file.shapes[key] or (0,))[-1]
        name = next((name for name in widths if widths[name] == width and name not in found), None)
        if name is None:
            raise CheckpointError(
                f"{file.path} has vectors of width {width}; expected one file each for "
                f"{' and '.join(map(str, widths.values()))}"
            )
        found[name] = file.read(key)
        words.append(key)
    return words[0], found, []


def _checked(vectors: Tensor, width: int, where: str) -> Tensor:
    """The vectors as (N, width) in float32. Raises `CheckpointError`."""
    shape = tuple(vectors.shape)
    if not 1 <= len(shape) <= 2 or shape[-1] != width or not 1 <= math.prod(shape[:-1]) <= MOST_VECTORS:
        raise CheckpointError(
            f"{where} has vectors of shape {list(shape)}; expected up to {MOST_VECTORS} of width {width}, give an "
            "embedding of this model"
        )
    values = vectors.reshape(-1, width).float().clone()
    if not bool(torch.isfinite(values).all()):
        raise CheckpointError(f"{where} has NaN or infinite numbers; download it again")
    return values


def read_bundled(file: TensorFile, widths: Mapping[str, int]) -> list[Inversion]:
    """The embeddings that a LoRA's file brings with it, as OneTrainer writes them. Raises `CheckpointError`."""
    words: dict[str, dict[str, str]] = {}
    for key in file.shapes:
        if match := BUNDLED.fullmatch(key):
            words.setdefault(match["word"], {})[match["key"]] = key
    found = []
    for word, keys in words.items():
        names = {TEXT: "clip_l", TEXT_2: "clip_g"}
        if any(names[name] not in keys for name in widths):
            continue  # of another family, or outputs alone
        vectors = {
            name: _checked(file.read(keys[names[name]]), width, f"{file.path}: {word}")
            for name, width in widths.items()
        }
        found.append(Inversion(word, (file.path,), vectors))
    return found
