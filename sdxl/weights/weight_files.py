"""The names of the weight files in a component's folder, and of their variants. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from .keymap import COMPONENTS, TEXT, TEXT_2, UNET, VAE

STEMS = {UNET: "diffusion_pytorch_model", VAE: "diffusion_pytorch_model", TEXT: "model", TEXT_2: "model"}


def weight_files(names: Sequence[str], stem: str, variant: str | None) -> list[str]:
    """The weight files of a component's folder: those of the variant, else the plain ones, else, without a variant,
    the fp16 ones.
    """
    for each in (variant, None) if variant else (None, "fp16"):
        middle = f".{each}" if each else ""
        for name in (f"{stem}{middle}.safetensors", f"{stem}.safetensors.index{middle}.json"):
            if name in names:
                shards = re.compile(re.escape(stem) + re.escape(middle) + r"-\d+-of-\d+" + r"\.safetensors")
                older = re.compile(re.escape(stem) + r"-\d+-of-\d+" + re.escape(middle) + r"\.safetensors")
                matching = [other for other in names if shards.fullmatch(other) or older.fullmatch(other)]
                return [name, *(matching if name.endswith(".json") else [])]
    return []


def variants(names: Iterable[str], stem: str) -> list[str]:
    """The variants of a component's weight files, such as bf16."""
    pattern = re.compile(re.escape(stem) + r"(?:\.safetensors\.index\.(\w[\w-]*)\.json|\.(\w[\w-]*)\.safetensors)")
    return sorted({found[1] or found[2] for name in names if (found := pattern.fullmatch(name))})


def variant_hint(names: Iterable[str], stem: str) -> str:
    """The advice for a folder whose weight files are all of some variant; empty if there are none."""
    found = variants(names, stem)
    flags = " or ".join(f'variant="{each}" (--variant {each})' for each in found)
    return f"its files are {' and '.join(found)}, give {flags}" if found else ""


def idle_variant(path: Path, variant: str) -> str | None:
    """Why a variant changes nothing for the model at a path; None if it does."""
    if os.path.isfile(path):
        return f"{path} is a single file; variants are files of a folder"
    if os.path.isdir(path) and not any(f".{variant}" in Path(name).name for name in folder_files(path, variant)[1]):
        return f"{path} has no such files, and its others are taken; leave it out"
    return None


def folder_files(path: Path, variant: str | None, part: str | None = None) -> tuple[Path, list[str]]:
    """The weight files of a model's folder, or of the component `part` of it or at `path`: the folder that they are
    named relative to, and their names. A file has no such names.
    """
    if not os.path.isdir(path):
        return path, []
    is_whole = os.path.isfile(path / "model_index.json")
    if part is not None:
        path = path / part if is_whole else path
        return path, _weights(path, STEMS[part], variant)
    folders = [name for name in COMPONENTS if os.path.isdir(path / name)] if is_whole else []
    return path, [f"{name}/{file}" for name in folders for file in _weights(path / name, STEMS[name], variant)]


def _weights(folder: Path, stem: str, variant: str | None) -> list[str]:
    names = sorted(os.listdir(folder))
    return [name for name in weight_files(names, stem, variant) if name.endswith(".safetensors")]
