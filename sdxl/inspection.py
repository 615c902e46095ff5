"""What a file or folder is, from its headers alone: kind, dtypes, tensors and parameters, what is missing or extra."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import hub, identify
from .errors import CheckpointError
from .keymap import (
    VAE,
    canonical_folder_key,
    component_rows,
    ignorable,
    match,
    unet_rows,
    vae_rows,
)
from .tensorfile import TensorFile, Weights, entries, naming, open_shards

_KINDS = {"base": "SDXL base", "refiner": "SDXL refiner", "inpainting": "SDXL inpainting"}


@dataclass
class PartReport:
    """One component: `dtypes` counts tensors by dtype."""

    tensors: int
    parameters: int
    dtypes: dict[str, int]


@dataclass
class Report:
    """What `inspect` found. Keys of the file in `missing`, `unexpected` and `ignored`."""

    path: Path
    kind: str
    parts: dict[str, PartReport]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def inspect(path: str | Path) -> Report:
    """Say what a .safetensors file, or a diffusers folder, is. Reads headers only. Raises `CheckpointError`."""
    path = hub.local(path)
    return _inspect_folder(path) if os.path.isdir(path) else _inspect_file(path)


def _inspect_file(path: Path) -> Report:
    weights = Weights([TensorFile(path)])
    if what := identify.foreign(weights):
        return Report(path, what, {"all": _count(weights, weights)})
    kind = identify.layout(weights)
    if kind == "whole" or identify.has_unet_and_text(weights):
        return _inspect_whole(path, weights)
    if kind == "unknown":
        return Report(path, "not a model that is known here", {"all": _count(weights, weights)})
    return _inspect_part(path, weights, kind)


def _count(weights: Weights, keys: Iterable[str]) -> PartReport:
    keys = list(keys)
    return PartReport(
        len(keys),
        sum(math.prod(weights[key]) for key in keys),
        dict(Counter(weights.dtype(key) for key in keys)),
    )


def _inspect_whole(path: Path, weights: Weights) -> Report:
    with naming(path):
        config = identify.infer_model(weights)
    tables = {name: match(rows, "single") for name, rows in component_rows(config, weights).items()}
    told = identify.prediction(weights, weights.files[0].metadata)
    lacking = identify.lacking(weights)
    if lacking:
        del tables[VAE]
    notes = (", v-prediction" if told and told[0] == "v_prediction" else "") + (", without VAE" if lacking else "")
    report = Report(path, f"{_KINDS[config.kind]}{notes}, single file", {})
    for name, table in tables.items():
        report.parts[name] = _count(weights, [key for key in table if key in weights])
    _compare(report, weights, {key for table in tables.values() for key in table})
    return report


def _inspect_part(path: Path, weights: Weights, kind: str) -> Report:
    name = kind.removeprefix("folder ")
    language = "folder" if kind.startswith("folder ") else "single"
    if language == "folder":
        weights = Weights(weights.files, lambda key: canonical_folder_key(key, name, False))
    prefix = identify.single_prefix(weights, name) if language == "single" else ""
    shapes = identify.strip(weights, prefix)
    with naming(path):
        if name == "unet":
            unet = identify.infer_unet(shapes, language)
            table = match(unet_rows(unet), language)
            label = {9: "SDXL inpainting UNet"}.get(unet.in_channels, "SDXL UNet")
        else:
            table = match(vae_rows(identify.infer_vae(shapes, language)), language)
            label = "VAE"
    known = {prefix + key for key in table}
    names = "a single file's names" if language == "single" else "a folder's names"
    report = Report(path, f"{label} alone, {names}", {name: _count(weights, known & set(weights))})
    _compare(report, weights, known)
    return report


def _compare(report: Report, weights: Weights, known: set[str]) -> None:
    rest = [key for key in weights if key not in known]
    report.missing = sorted(known - set(weights))
    report.ignored = [key for key in rest if ignorable(key)]
    report.unexpected = [key for key in rest if not ignorable(key)]


def _inspect_folder(path: Path) -> Report:
    parts: dict[str, Weights] = {}
    for name in entries(path):
        names = [path / name / file for file in entries(path / name)] if os.path.isdir(path / name) else []
        index = next((file for file in names if file.match("*.safetensors.index*.json")), None)
        files = [file for file in names if file.suffix == ".safetensors" and "-of-" not in file.name]
        if index:
            parts[name] = Weights(open_shards(index))
        elif files:
            parts[name] = Weights([TensorFile(files[0])])
    if "unet" not in parts:
        raise CheckpointError(f"{path} has no unet/*.safetensors; give a diffusers folder or a .safetensors file")
    if what := identify.foreign(parts["unet"]):
        return Report(path, f"{what}, diffusers folder", {name: _count(w, w) for name, w in parts.items()})
    with naming(path):
        unet = identify.infer_unet(parts["unet"], "folder")
    kind = "inpainting" if unet.in_channels == 9 else "base" if "text_encoder" in parts else "refiner"
    report = Report(path, f"{_KINDS[kind]}, diffusers folder", {name: _count(w, w) for name, w in parts.items()})
    _compare(report, parts["unet"], set(match(unet_rows(unet), "folder")))
    return report
