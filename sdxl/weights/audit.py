"""Reports on a file or folder from its headers alone: model, dtypes, tensors, parameters, missing and extra keys."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import naming
from ..models.control_config import ControlNetConfig, LLLiteConfig, T2IAdapterConfig
from ..models.published import BASE
from ..models.schedule_config import ScheduleConfig
from ..models.tiny_vae_config import TinyVAEConfig
from ..models.unet_config import UNetConfig
from ..sampling.presets import Family
from . import hub, identify, quantized
from .checkpoint import Checkpoint, checkpoint_of_file, component_of_file, open_files, read_checkpoint
from .component import Component, Config, Findings, find_superfluous
from .container import TensorFile, Weights
from .control import read_control, read_files
from .control_kinds import CONTROL_LORA, NAME, is_control, kind_of, refusal
from .folder import WEIGHTS
from .info import ModelInfo
from .keymap import VAE
from .recognise import recognise
from .tiny_vae import component_of_folder, component_of_tiny, has_decoder, is_named_otherwise, is_tiny, is_tiny_folder
from .weight_files import STEMS

_MODELS = {"base": "SDXL base", "refiner": "SDXL refiner", "inpainting": "SDXL inpainting"}


@dataclass
class ComponentReport:
    """One component: `dtypes` counts tensors by dtype."""

    tensors: int
    parameters: int
    dtypes: dict[str, int]


@dataclass
class Report:
    """The result of `inspect`. `parts` are the components. `missing`, `unexpected` and `ignored` are keys; in a folder
    they begin with the component's name. `wrong` has one sentence for each tensor of a wrong shape or dtype, and
    `notes` one for each recommendation of the model that is not supported. `family` is the preset that it shows.
    """

    path: Path
    kind: str
    parts: dict[str, ComponentReport]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    family: Family | None = None


def inspect(path: str | Path, variant: str | None = None) -> Report:
    """Identify a .safetensors file or a diffusers folder, whose files may be of a `variant`. Reads headers only. Raises
    `CheckpointError`.
    """
    path = hub.on_disk(path)
    return inspect_folder(path, variant) if os.path.isdir(path) else inspect_file(TensorFile(path))


def inspect_folder(path: Path, variant: str | None) -> Report:
    """As `inspect`, of a folder."""
    if os.path.isfile(path / "config.json"):
        if is_tiny_folder(path):
            return _tiny_vae(path, component_of_folder(path, open_files(path, STEMS[VAE], variant)))
        if not os.path.isfile(path / "model_index.json"):
            weights, data = read_files(path, variant)
            if is_control(weights):
                return _control(path, weights, data)
    return _model_folder(path, variant)


def _control(path: Path, weights: Weights, data: Mapping[str, Any]) -> Report:
    """The report of a network for control images, with the `data` of its config.json."""
    if (found := refusal(weights)) is not None:
        return Report(path, found[0], {"all": count_tensors(weights, weights)})
    kind = kind_of(weights)
    assert kind is not None
    if kind == CONTROL_LORA:
        return Report(path, f"{kind} of SDXL, rank {_rank(weights)}", {"all": count_tensors(weights, weights)})
    with naming(path):
        read = read_control(kind, weights, data, BASE.unet)
    return report_components(path, f"{kind} of SDXL, {_size(read.config)}", {NAME: read})


def _rank(weights: Weights) -> str:
    """The ranks of a Control-LoRA's factors."""
    ranks = {weights[key][1] for key in weights if key.endswith(".up") and len(weights[key]) > 1}
    return " to ".join(map(str, sorted({min(ranks), max(ranks)}))) if ranks else "unknown"


def _size(config: Config) -> str:
    """What tells networks of one kind apart."""
    if isinstance(config, T2IAdapterConfig):
        return f"{config.image_channels} channel{'s' * (config.image_channels > 1)}"
    if isinstance(config, LLLiteConfig):
        ranks = sorted({place.rank for place in config.places})
        return f"rank {' and '.join(map(str, ranks))}, {len(config.places)} projections"
    assert isinstance(config, ControlNetConfig)
    if config.types:
        return f"{config.types} types"
    depths = {depth for level in config.trunk.down for depth in level}
    return "small" if depths == {None} else "mid" if 0 in depths else "full"


def inspect_file(file: TensorFile) -> Report:
    """As `inspect`, of an opened file."""
    weights = Weights([file])
    if is_control(weights):
        return _control(file.path, weights, {})
    if other := identify.foreign(weights):
        return Report(file.path, other, {"all": count_tensors(weights, weights)})
    quantized.refuse(weights, weights.dtype, file.path)
    if is_tiny(weights):
        return _tiny_vae(file.path, component_of_tiny(file) if has_decoder(weights) else None, weights)
    component, layout = identify.contents(weights)
    if component == "whole" or identify.has_unet_and_text(weights):
        checkpoint = checkpoint_of_file(file, needs_vae=False)
        note = ", without VAE" if identify.lacking(weights) else ""
        return report_components(
            file.path, f"{_whole(checkpoint)}{note}, single file", checkpoint.components, checkpoint.info
        )
    if component == "unknown":
        return Report(file.path, "not a known model", {"all": count_tensors(weights, weights)})
    with naming(file.path):
        opened = component_of_file(file, component, BASE)
    inputs = getattr(opened.config, "in_channels", None)
    label = "VAE" if component == "vae" else "SDXL inpainting UNet" if inputs == 9 else "SDXL UNet"
    names = "single-file layout" if layout == "single" else "folder layout"
    family = None
    if isinstance(opened.config, UNetConfig):
        prediction = opened.prediction or ("epsilon", False)
        schedule = ScheduleConfig(schedule_is_stated=False).of_network(*prediction)
        family = recognise(opened.config, schedule, file.path, file.metadata)
    return replace(report_components(file.path, f"{label} only, {names}", {component: opened}), family=family)


def _tiny_vae(path: Path, opened: Component | None, weights: Weights | None = None) -> Report:
    """The report of a tiny VAE, or of the `weights` of an encoder alone. TAESD of Stable Diffusion 1 has the same
    tensors.
    """
    family = "TAESD by its name, of Stable Diffusion 1 and 2" if is_named_otherwise(path) else "as TAESDXL"
    if opened is None:
        assert weights is not None
        return Report(path, f"tiny VAE ({family}), encoder alone", {"all": count_tensors(weights, weights)})
    assert isinstance(opened.config, TinyVAEConfig)
    half = "" if opened.config.has_encoder else ", decoder alone"
    return report_components(path, f"tiny VAE ({family}){half}, {opened.layout} layout", {VAE: opened})


def _model_folder(path: Path, variant: str | None) -> Report:
    unets = sorted((path / "unet").glob(WEIGHTS))
    if unets and (other := identify.foreign(TensorFile(unets[0]).shapes)):
        files = {file.parent.name: Weights([TensorFile(file)]) for file in sorted(path.glob(f"*/{WEIGHTS}"))}
        return Report(path, f"{other}, diffusers folder", {name: count_tensors(w, w) for name, w in files.items()})
    checkpoint = read_checkpoint(path, variant)
    return report_components(path, f"{_whole(checkpoint)}, diffusers folder", checkpoint.components, checkpoint.info)


def _whole(checkpoint: Checkpoint) -> str:
    schedule = checkpoint.info.schedule
    words = {"v_prediction": ", v-prediction", "sample": ", prediction of the sample", "edm": ", EDM"}
    prediction = words.get(schedule.prediction, "")
    ending = ", zero terminal SNR" if schedule.zero_terminal_snr else ""
    return _MODELS[checkpoint.info.config.kind] + prediction + ending


def report_components(path: Path, kind: str, components: dict[str, Component], info: ModelInfo | None = None) -> Report:
    """The report of components: counted and compared. The keys of a folder begin with the names of their components."""
    report = Report(path, kind, {})
    if info is not None:
        report = replace(report, notes=list(info.schedule.notes), family=info.family)
    for name, component in components.items():
        keys = component.keys() & set(component.weights)
        report.parts[name] = count_tensors(component.weights, keys)
        _add(report, component.find(), f"{name}/" if os.path.isdir(path) else "")
    if os.path.isdir(path):
        for name, component in components.items():
            _add(report, find_superfluous([component]), f"{name}/")
    else:
        _add(report, find_superfluous(list(components.values())), "")
    return report


def _add(report: Report, findings: Findings, prefix: str) -> None:
    report.missing += sorted(prefix + key for key in findings.missing)
    report.unexpected += [prefix + key for key in findings.unexpected]
    report.ignored += [prefix + key for key in findings.ignored]
    report.wrong += [prefix + sentence for sentence in findings.wrong]


def count_tensors(weights: Weights, keys: Iterable[str]) -> ComponentReport:
    """How many tensors and parameters some keys of files are, and of which dtypes."""
    keys = list(keys)
    return ComponentReport(
        len(keys),
        sum(math.prod(weights[key]) for key in keys),
        dict(Counter(weights.dtype(key) for key in keys)),
    )
