"""Opens a model from its headers and JSON files. Every key of its files is used, known to be ignorable, or an error."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, brief, naming
from ..models.config import ModelConfig, VAEConfig
from ..models.tiny_vae_config import TinyVAEConfig
from ..models.unet_config import UNetConfig
from ..sampling.presets import Family
from . import diffusers_config, identify, quantized, tiny_vae, tokenizer_files
from .component import Component, check_components
from .container import TensorFile, Weights, open_shards
from .folder import WEIGHTS, entries, list_some, read_json
from .infer import infer_unet, infer_vae
from .info import ModelInfo, info_from_file
from .keymap import PREFIXES, TEXT, TEXT_2, UNET, VAE, Row, canonical_folder_key, component_rows, unet_rows, vae_rows
from .path import AnyPath, expanded
from .recognise import recognise
from .weight_files import STEMS, variant_hint, weight_files


@dataclass(frozen=True)
class Checkpoint:
    """An opened model: its info and its components."""

    info: ModelInfo
    components: dict[str, Component]

    def with_component(self, new: Component) -> Checkpoint:
        """The model with another UNet or VAE. A UNet also sets the prediction type if its file states one. The scale of
        the latents is that of an EDM model's UNet, whichever VAE it gets.
        """
        old, vae = self.info.schedule, self.info.config.vae
        if isinstance(new.config, TinyVAEConfig):
            with naming(new.weights.where):
                new = replace(new, config=tiny_vae.fitted(new.config, vae))
        elif new.name == VAE and old.prediction == "edm":
            scale = {name: getattr(vae, name) for name in ("scaling_factor", "latents_mean", "latents_std")}
            new = replace(new, config=replace(new.config, **scale))
        changed: dict[str, Any] = {new.name: new.config}
        schedule = old if new.prediction is None else old.of_network(*new.prediction)
        with naming(new.weights.where):
            info = replace(self.info, config=replace(self.info.config, **changed), schedule=schedule)
        if new.name == UNET:
            # a file's own schedule says nothing about a UNet that replaces its own
            unstated = replace(info, schedule=replace(schedule, schedule_is_stated=False, sampler="euler"))
            file = new.weights.files[0]
            info = replace(info, family=_family(unstated, file.path, file.metadata))
        return replace(self, info=info, components={**self.components, new.name: new})


def open_checkpoint(path: AnyPath, variant: str | None = None, needs_vae: bool = True) -> Checkpoint:
    """Open a single file or a diffusers folder: its headers and JSON files, no weights. If `needs_vae` is false, a
    single file may lack a VAE, as some published files do. Raises `CheckpointError`.
    """
    checkpoint = read_checkpoint(path, variant, needs_vae)
    check_components(list(checkpoint.components.values()))
    return checkpoint


def read_checkpoint(path: AnyPath, variant: str | None = None, needs_vae: bool = True) -> Checkpoint:
    """As `open_checkpoint`, without checking the keys of the files."""
    path = expanded(path)
    if not os.path.isdir(path):  # unlike Path.is_dir, False if access is denied
        return checkpoint_of_file(TensorFile(path), needs_vae)
    checkpoint = _read_folder(path, variant)
    return replace(checkpoint, info=replace(checkpoint.info, family=_family(checkpoint.info, path, {})))


def _family(info: ModelInfo, path: Path, metadata: Mapping[str, str]) -> Family | None:
    """The family of the files that a model, or its UNet, was read from."""
    return None if info.config.kind == "refiner" else recognise(info.config.unet, info.schedule, path, metadata)


def checkpoint_of_file(file: TensorFile, needs_vae: bool = True) -> Checkpoint:
    """As `read_checkpoint`, of an opened file."""
    weights = Weights([file])
    if other := identify.foreign(weights):
        raise CheckpointError(
            f"{file.path} is {other}, not an SDXL model; give a base, inpainting or refiner model of SDXL"
        )
    quantized.refuse(weights, weights.dtype, file.path)
    contents = identify.contents(weights)
    has_vae = "VAE" not in identify.lacking(weights)
    if contents[0] != "whole" and (needs_vae or has_vae or not identify.has_unet_and_text(weights)):
        fact, advice = _not_whole(weights, contents)
        raise CheckpointError(f"{file.path} {fact}; {advice}")
    info = info_from_file(file)
    rows = component_rows(info.config, weights)
    return Checkpoint(
        replace(info, family=_family(info, file.path, file.metadata)),
        {
            name: Component(name, getattr(info.config, name), table, "single", weights, others=_edm_keys(weights))
            for name, table in rows.items()
            if name != VAE or has_vae
        },
    )


def _edm_keys(weights: Weights) -> frozenset[str]:
    """The keys of EDM's noise levels and latents, which the info of a model has read."""
    return frozenset(() if identify.edm(weights) is None else identify.EDM_KEYS & set(weights))


def _not_whole(weights: Weights, contents: tuple[str, str]) -> tuple[str, str]:
    """The fact and the advice of the error for a file that is not a complete model."""
    name, layout = contents
    if tiny_vae.is_tiny(weights):
        return "is only a tiny VAE", "give it as vae= together with a complete model"
    lacking = identify.lacking(weights) if (name, layout) == (UNET, "single") else []
    if lacking == ["VAE"]:
        return "has no VAE", "give one as vae="
    advice = "a complete model has a UNet, text encoders and a VAE"
    if len(lacking) == 1:
        return f"has no {lacking[0]}", advice
    if name in (UNET, VAE):
        return f"is only a {'UNet' if name == UNET else 'VAE'}", f"give it as {name}= together with a complete model"
    return "is not a complete SDXL model", advice


def _read_folder(path: Path, variant: str | None) -> Checkpoint:
    if "model_index.json" not in entries(path):
        raise CheckpointError(
            f"{path} has no model_index.json{_other_contents(path)}; give a diffusers folder or one .safetensors file"
        )
    info = _folder_info(path, read_json(path / "model_index.json"))
    rows = component_rows(info.config)
    return Checkpoint(
        info,
        {
            name: _read_component_folder(path / name, name, getattr(info.config, name), table, variant)
            for name, table in rows.items()
        },
    )


def _other_contents(path: Path) -> str:
    """For an error message: what a folder that is no model has in place of one."""
    names = entries(path)
    if "config.json" in names:
        return " but a config.json: it is a component, which unet= and vae= take"
    files = [name for name in names if name.endswith(".safetensors")]
    files = files or [file.relative_to(path).as_posix() for file in sorted(path.glob(f"*/{WEIGHTS}"))]
    return f" but {len(files)} .safetensors file{'s' * (len(files) > 1)}: {list_some(files)}" if files else ""


def check_folder(path: Path) -> None:
    """Raise `CheckpointError` if the JSON files of a folder describe no SDXL model. The weights may be missing."""
    _folder_info(path, read_json(path / "model_index.json"))


def _check_index(path: Path, index: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` if a model_index.json is not that of an SDXL model."""
    name = index.get("_class_name")
    if not isinstance(name, str) or "XL" not in name:
        raise CheckpointError(
            f"{path} holds a {name[:100] if isinstance(name, str) else 'pipeline without a name'}, not an SDXL model; "
            "give the folder of an SDXL model"
        )


def _folder_info(path: Path, index: Mapping[str, Any]) -> ModelInfo:
    _check_index(path, index)
    present = {component: _is_named(path, index, component) for component in (TEXT, TEXT_2, UNET, VAE)}
    if absent := [component for component in (TEXT_2, UNET, VAE) if not present[component]]:
        raise CheckpointError(
            f"{path}: model_index.json names no {absent[0]}; the model is incomplete, download it again"
        )
    encoders = [component for component in (TEXT, TEXT_2) if present[component]]
    for component in [*encoders, UNET, VAE, "scheduler"]:
        if not os.path.isdir(path / component):
            raise CheckpointError(
                f"{path / component} is missing, but model_index.json names it; download the model again"
            )
        entries(path / component)  # raises if the folder cannot be read
    files = {component: path / component / "config.json" for component in (*encoders, UNET, VAE)}
    texts = {p: diffusers_config.read_text(read_json(files[p]), p == TEXT_2, str(files[p])) for p in encoders}
    unet = diffusers_config.read_unet(read_json(files[UNET]), str(files[UNET]))
    vae = diffusers_config.read_vae(read_json(files[VAE]), str(files[VAE]))
    scheduler = path / "scheduler/scheduler_config.json"
    schedule = diffusers_config.read_scheduler(read_json(scheduler), str(scheduler))
    tokenizers = {
        name: tokenizer_files.read_folder(path / name.replace("text_encoder", "tokenizer")) for name in encoders
    }
    with naming(path):
        config = ModelConfig(unet, vae, texts.get(TEXT), texts[TEXT_2])
        zero_negative = bool(index.get("force_zeros_for_empty_prompt", config.kind != "refiner"))
        info = ModelInfo(config, schedule, zero_negative, tokenizers)
        info.check_ids()
    return info


def _is_named(path: Path, index: Mapping[str, Any], component: str) -> bool:
    """Whether model_index.json names a component. Its entry is a list of library and class, or of nulls."""
    entry = index.get(component) or [None]
    if not isinstance(entry, list):
        raise ConfigError(
            f"{path / 'model_index.json'}: {component} is {brief(entry)}; it must be a list of a library and a class, "
            "download it again"
        )
    return entry[-1] is not None


def open_files(path: Path, stem: str, variant: str | None) -> list[TensorFile]:
    """The weight files of a component's folder. Raises `CheckpointError`."""
    names = entries(path)
    chosen = weight_files(names, stem, variant)
    if not chosen:
        pickled = any(name.endswith((".bin", ".ckpt", ".pt")) for name in names)
        advice = "download it, the pickle in its place is not read" if pickled else "download it"
        advice = variant_hint(names, stem) or advice
        raise CheckpointError(f"{path / (stem + '.safetensors')} is missing; {advice}")
    first = path / chosen[0]
    return open_shards(first) if first.suffix == ".json" else [TensorFile(first)]


def _read_component_folder(path: Path, name: str, config: Any, rows: list[Row], variant: str | None) -> Component:
    files = open_files(path, STEMS[name], variant)
    bare = not any(key.startswith("text_model.") for file in files for key in file.shapes)
    weights = Weights(files, lambda key: canonical_folder_key(key, name, bare))
    quantized.refuse(weights, weights.dtype, path)
    others = frozenset({"text_projection.weight"} if name == TEXT else ())
    return Component(name, config, rows, "folder", weights, others=others)


def open_component(path: AnyPath, name: str, like: ModelConfig, variant: str | None = None) -> Component:
    """Open the UNet or VAE (`name`) of a component's file or folder, or of a complete model, to replace that of `like`.

    `like` gives the values that neither the shapes nor a config.json beside the file state. Raises `CheckpointError`.
    """
    path = expanded(path)
    if os.path.isdir(path):
        if "model_index.json" in entries(path):
            return _component_of_whole(path, name, variant)
        component = _component_of_folder(path, name, variant)
    else:
        file = TensorFile(path)
        if identify.contents(file.shapes)[0] == "whole":
            return _component_of_whole(path, name, variant)
        component = component_of_file(file, name, like)
    check_components([component])
    return component


def open_preview(path: Path, like: ModelConfig, variant: str | None = None) -> Component:
    """Open a tiny VAE that decodes previews of a model like that. Raises `CheckpointError`."""
    component = open_component(path, VAE, like, variant)
    if not isinstance(component.config, TinyVAEConfig):
        raise CheckpointError(f"{path} is a whole VAE, too slow for previews; give a tiny one as preview_vae=")
    with naming(path):
        return replace(component, config=tiny_vae.fitted(component.config, like.vae))


def component_of_file(file: TensorFile, name: str, like: ModelConfig) -> Component:
    """The UNet or VAE (`name`) of a file that is not a complete model. Its keys are not checked."""
    weights = Weights([file])
    if other := identify.foreign(weights):
        raise CheckpointError(f"{file.path} is {other}, not a {name} of SDXL; give one as {name}=")
    quantized.refuse(weights, weights.dtype, file.path)
    if name == UNET and identify.edm(weights) is not None:
        raise _foreign_noise(file.path)
    if tiny_vae.is_tiny(weights):
        if name != VAE:
            raise CheckpointError(f"{file.path} is a tiny VAE, not a {name} of SDXL; give it as vae=")
        tiny_vae.check_name(file.path)
        return tiny_vae.component_of_tiny(file, like.vae)
    found, layout = identify.contents(weights)
    if (found, layout) == (UNET, "single") and name == VAE and "VAE" not in identify.lacking(weights):
        found = VAE  # beside a UNet, without text encoders
    if found != name:
        other = "an unknown file" if found == "unknown" else f"a {found}"
        raise CheckpointError(f"{file.path} is {other}, not a {name} of SDXL; give one as {name}=")
    if layout == "folder" and os.path.isfile(file.path.parent / "config.json"):
        config: Any = _read_config(file.path.parent / "config.json", name)
        prefix = ""
    else:
        prefix = identify.single_prefix(weights, name) if layout == "single" else ""
        with naming(file.path):
            config = _infer_config(identify.strip(weights, prefix), name, layout, like)
    rename = (lambda key: canonical_folder_key(key, name, False)) if layout == "folder" else str
    renamed = Weights([file], rename)
    others = {key for key in renamed if prefix and key.startswith(PREFIXES) and not key.startswith(prefix)}
    prediction = identify.prediction(file.shapes, file.metadata, str(file.path)) if name == UNET else None
    return Component(name, config, _rows(name, config, prefix), layout, renamed, prediction, frozenset(others))


def _component_of_whole(path: Path, name: str, variant: str | None) -> Component:
    if name == VAE and os.path.isdir(path):  # whose other components need not be supported
        _check_index(path, read_json(path / "model_index.json"))
        component = _component_of_folder(path / VAE, VAE, variant)
        check_components([component])
        return component
    whole = open_checkpoint(path, variant)
    schedule = whole.info.schedule
    if name == UNET and schedule.edm is not None:
        raise _foreign_noise(path)
    prediction = (schedule.prediction, schedule.zero_terminal_snr) if name == UNET else None
    return replace(whole.components[name], prediction=prediction)


def _foreign_noise(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} has a UNet of EDM, whose noise levels are not those of the model; give the whole model as the model"
    )


def _component_of_folder(path: Path, name: str, variant: str | None) -> Component:
    if not os.path.isfile(path / "config.json"):
        raise CheckpointError(
            f"{path} has neither model_index.json nor config.json{_other_contents(path)}; give a model folder or one "
            ".safetensors file"
        )
    if name == VAE and tiny_vae.is_tiny_folder(path):
        tiny_vae.check_name(path)
        return tiny_vae.component_of_folder(path, open_files(path, STEMS[VAE], variant))
    config: Any = _read_config(path / "config.json", name)
    return _read_component_folder(path, name, config, _rows(name, config, ""), variant)


def _read_config(path: Path, name: str) -> UNetConfig | VAEConfig:
    read = diffusers_config.read_unet if name == UNET else diffusers_config.read_vae
    return read(read_json(path), str(path))


def _infer_config(shapes: identify.Shapes, name: str, layout: str, like: ModelConfig) -> Any:
    if name == VAE:
        old = like.vae
        assert isinstance(old, VAEConfig)  # no model comes with a tiny one
        new = infer_vae({canonical_folder_key(k, VAE, False): shapes[k] for k in shapes}, layout)
        return replace(
            new,
            norm_groups=old.norm_groups,
            scaling_factor=old.scaling_factor,
            latents_mean=old.latents_mean,
            latents_std=old.latents_std,
        )
    unet = infer_unet(shapes, layout)
    same = unet.channels == like.unet.channels
    return replace(
        unet,
        heads=like.unet.heads if same else unet.heads,
        norm_groups=like.unet.norm_groups,
        norm_eps=like.unet.norm_eps,
        size_dim=like.unet.size_dim,
        sample_size=like.unet.sample_size,
    )


def _rows(name: str, config: Any, prefix: str) -> list[Row]:
    rows = unet_rows(config) if name == UNET else vae_rows(config)
    return [replace(row, single=prefix + row.single) for row in rows]
