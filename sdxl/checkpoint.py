"""A model on disk: opened by its headers, every key accounted for, components loaded one by one.

A single file says nothing about what its shapes do not show; our own writer puts that into its `__metadata__`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import folder as folder_json
from . import identify, tokenizer
from .cast import cast
from .clip import Layer, TextEncoder
from .config import ModelConfig, ScheduleConfig, TextConfig, UNetConfig, VAEConfig
from .device import Placement
from .errors import CheckpointError, ConfigError
from .int8 import quantized
from .keymap import (
    FUSED,
    PREFIXES,
    TEXT,
    TEXT_2,
    UNET,
    VAE,
    Op,
    Row,
    canonical_folder_key,
    component_rows,
    ignorable,
    summarize,
    unet_rows,
    vae_rows,
)
from .nn import Conv2d, Linear, ResBlock
from .pack import packed
from .scratch import scratch
from .tensorfile import (
    TensorFile,
    Weights,
    brief,
    entries,
    naming,
    open_shards,
    parse_json,
    read_json,
    weight_files,
)
from .tokenizer import TokenizerConfig
from .unet import TransformerBlock, UNet
from .vae import VAE as VAEModel
from .winograd import GROWTH, is_wide

STREAMED = (Layer, ResBlock, TransformerBlock)  # after one of these the weights that were read are let go
METADATA_KEY = "sdxl.model"
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
FILE_NAMES = {UNET: "diffusion_pytorch_model", VAE: "diffusion_pytorch_model", TEXT: "model", TEXT_2: "model"}


@dataclass(frozen=True)
class Description:
    """Everything about a model but its weights."""

    config: ModelConfig
    schedule: ScheduleConfig
    zero_negative: bool  # negative_prompt=None means zeros (and not the encoded empty text)
    tokenizers: dict[str, TokenizerConfig]  # by the name of the text encoder

    def __post_init__(self) -> None:
        if self.tokenizers.keys() != self.encoders.keys():
            raise ConfigError(
                f"there are tokenizers for {list(self.tokenizers)} and text encoders {list(self.encoders)}; fetch the "
                "model again"
            )
        lengths = {min(self.tokenizers[name].length, each.positions) for name, each in self.encoders.items()}
        if len(lengths) != 1:
            raise ConfigError(
                f"the text encoders read different numbers of tokens, {sorted(lengths)}; they are not of the same model"
            )

    @property
    def encoders(self) -> dict[str, TextConfig]:
        """The text encoders by name."""
        both = {TEXT: self.config.text_encoder, TEXT_2: self.config.text_encoder_2}
        return {name: config for name, config in both.items() if config}

    def check_ids(self) -> None:
        """Raise where a tokenizer gives ids that its encoder has no vector for."""
        for name, encoder in self.encoders.items():
            if (size := self.tokenizers[name].size) > encoder.vocab_size:
                raise ConfigError(
                    f"the tokenizer of the {name} gives ids up to {size - 1}, and the encoder's vocab_size is "
                    f"{encoder.vocab_size}; they are not of the same model"
                )


@dataclass(frozen=True)
class Component:
    """The weights of one network on disk. `prediction` is what its file tells of a UNet: see `identify.prediction`."""

    name: str
    config: UNetConfig | VAEConfig | TextConfig
    rows: list[Row]
    language: str  # the names in the files: "single" or "folder"
    weights: Weights
    prediction: tuple[str, bool] | None = None

    def build(self) -> nn.Module:
        """The network on the meta device: no memory, no initialisation."""
        with torch.device("meta"):
            if isinstance(self.config, UNetConfig):
                return UNet(self.config)
            return VAEModel(self.config) if isinstance(self.config, VAEConfig) else TextEncoder(self.config)

    def key(self, row: Row) -> str:
        """The name of a row in this component's files."""
        return row.single if self.language == "single" else row.folder

    def check(self) -> None:
        """Raise for missing tensors, wrong shapes, and numbers that are no weights."""
        missing = [row for row in self.rows if self.key(row) not in self.weights and not self.unread(row)]
        if missing:
            raise CheckpointError(
                f"{self.weights.where}: {len(missing)} tensors of the {self.name} are missing: "
                f"{summarize(dict.fromkeys(self.key(row) for row in missing))}; the file is incomplete, fetch it again"
            )
        wanted = {name: tuple(value.shape) for name, value in self.build().state_dict().items()}
        for row in self.rows:
            key, op = self.key(row), self._op(row)
            if key not in self.weights:
                continue
            shape, want, dtype = self.weights[key], _stored_shape(wanted[row.ours], op), self.weights.dtype(key)
            if shape != want and not (op is Op.CONV1X1 and shape == want[:2]):
                raise CheckpointError(
                    f"{self.weights.where}: {key} has shape {list(shape)}, its config asks {list(want)}; file and "
                    "config are not of the same model"
                )
            if dtype not in _FLOATS:
                raise CheckpointError(
                    f"{self.weights.where}: {key} is of type {brief(dtype)}; weights are read in {', '.join(_FLOATS)} "
                    "and not in quantized forms, get the model in one of these"
                )

    def unread(self, row: Row) -> bool:
        """Whether SDXL never reads a parameter: CLIP-L's last layer and final norm, which some writers leave out."""
        if self.name != TEXT or not isinstance(self.config, TextConfig):
            return False
        return row.ours.startswith((f"layers.{self.config.layers - 1}.", "norm_out."))

    def _op(self, row: Row) -> Op:
        return row.op if self.language == "single" else Op.SAME

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Our names and tensors, views of the mapped files; what is not read and not there is left out."""
        for row in self.rows:
            if self.key(row) in self.weights:
                yield row.ours, _from_stored(self.weights.read(self.key(row)), self._op(row))

    def load(self, at: Placement) -> nn.Module:
        """The network with its weights, ready to run; not packed, of the same dtype and device, they are not copied.

        Whoever opened the component has checked it; here a missing weight would still be an error.
        """
        model = self.build().requires_grad_(False).eval()
        state = dict(self.tensors())
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        for row in self.rows:
            if row.ours not in state and self.unread(row):
                state[row.ours] = torch.zeros(shapes[row.ours])
        model.load_state_dict(state, assign=True)
        del state
        self._settle(model, at)
        scratch.clear()  # loading takes more of it than running, and may run in many threads
        if at.streamed and at.device.type == "cpu":
            for module in model.modules():
                if isinstance(module, STREAMED):
                    module.register_forward_hook(lambda *_: self.weights.forget())
        else:
            self.weights.close()
        return model

    def _settle(self, module: nn.Module, at: Placement, in_block: bool = False) -> None:
        """Bring the mapped weights where they are to be, layer by layer, so that there are never two copies of all."""
        in_block = in_block or isinstance(module, TransformerBlock)
        for name, child in list(module.named_children()):
            if at.int8 and in_block:
                layer = quantized(child, at.arithmetic)
            else:
                layer = packed(child, at.dtype) if at.packed else None
            if layer is None:
                self._settle(child, at, in_block)
            else:
                setattr(module, name, layer)
                self.weights.forget()
        for parameter in module.parameters(recurse=False):
            if parameter.ndim == 1:
                parameter.data = parameter.to(at.device, at.arithmetic)
            elif not at.streamed or not isinstance(module, (Linear, Conv2d)):
                parameter.data = _moved(parameter.data, at.device, at.dtype)
            elif at.device.type == "cuda":
                parameter.data = _moved(parameter.data, torch.device("cpu"), at.dtype).pin_memory()
            else:
                module.held = at.dtype
        self.weights.forget()

    def bytes(self, dtype: torch.dtype, is_packed: bool = False, int8: bool = False) -> int:
        """What the weights take up in a dtype, laid out for a CPU or not; at least, if matrices are in 8 bits."""
        keys = {self.key(row) for row in self.rows} & set(self.weights)
        total = 0.0
        for shape in (self.weights[key] for key in keys):
            grows = is_packed and dtype is torch.float32 and is_wide(shape)  # but for the few of stride 2
            itemsize = 1 if int8 and len(shape) == 2 else dtype.itemsize
            total += math.prod(shape) * itemsize * (GROWTH if grows else 1)
        return int(total)


@dataclass(frozen=True)
class Checkpoint:
    """An opened model: what it is, and its components."""

    about: Description
    components: dict[str, Component]

    def with_part(self, part: Component) -> Checkpoint:
        """The same model with its UNet or VAE from another file; a UNet brings what it predicts, if that is known."""
        changed: dict[str, Any] = {part.name: part.config}
        kind, ends_at_zero = part.prediction or (self.about.schedule.prediction, self.about.schedule.zero_terminal_snr)
        schedule = replace(self.about.schedule, prediction=kind, zero_terminal_snr=ends_at_zero)
        with naming(part.weights.where):
            about = replace(self.about, config=replace(self.about.config, **changed), schedule=schedule)
        return replace(self, about=about, components={**self.components, part.name: part})


def _moved(weight: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A weight on another device and in another dtype; itself if it is there already."""
    if device.type == "cuda" and weight.itemsize <= dtype.itemsize:
        return weight.to(device).to(dtype)  # it is cast there, which takes less time
    if device.type != "cpu":
        return weight.to(device, dtype)
    return weight if weight.dtype == dtype else cast(weight, torch.empty(weight.shape, dtype=dtype))


def _stored_shape(shape: tuple[int, ...], op: Op) -> tuple[int, ...]:
    if op in FUSED:
        return (3 * shape[0], *shape[1:])
    if op is Op.CONV1X1:
        return (*shape, 1, 1)
    return shape[::-1] if op is Op.TRANSPOSE else shape


def _from_stored(tensor: Tensor, op: Op) -> Tensor:
    if op in FUSED:
        return tensor.chunk(3)[FUSED.index(op)]
    if op is Op.CONV1X1:
        return tensor.reshape(tensor.shape[:2])
    return tensor.T.contiguous() if op is Op.TRANSPOSE else tensor


def open_checkpoint(path: Path, variant: str | None = None, needs_vae: bool = True) -> Checkpoint:
    """Open a single file or a diffusers folder. Reads headers and JSON, no weight. A single file may lack a VAE that is
    not needed, as some that are published do.
    """
    if os.path.isdir(path):  # unlike Path.is_dir, False for what may not be read
        return _open_folder(path, variant)
    return _open_single(TensorFile(path), needs_vae)


def _open_single(file: TensorFile, needs_vae: bool) -> Checkpoint:
    weights = Weights([file])
    if what := identify.foreign(weights):
        raise CheckpointError(
            f"{file.path} is {what}, not an SDXL model; give a base, inpainting or refiner model of SDXL"
        )
    kind = identify.layout(weights)
    has_vae = "VAE" not in identify.lacking(weights)
    if kind != "whole" and (needs_vae or has_vae or not identify.has_unet_and_text(weights)):
        what, advice = _not_whole(weights, kind)
        raise CheckpointError(f"{file.path} {what}; {advice}")
    about = _describe_single(weights, file)
    rows = component_rows(about.config, weights)
    parts = {
        name: Component(name, getattr(about.config, name), table, "single", weights)
        for name, table in rows.items()
        if name != VAE or has_vae
    }
    known = {row.single for table in rows.values() for row in table}
    _account(weights, known)
    for part in parts.values():
        part.check()
    return Checkpoint(about, parts)


def _not_whole(weights: Weights, kind: str) -> tuple[str, str]:
    """What a file that is not a whole model is or lacks, and what to do with it."""
    name = kind.removeprefix("folder ")
    lacking = identify.lacking(weights) if name == UNET else []
    if lacking == ["VAE"]:
        return "has no VAE", "give one as vae="
    whole = "a whole model has UNet, text encoders and VAE"
    if len(lacking) == 1:
        return f"has no {lacking[0]}", whole
    if name in (UNET, VAE):
        return f"is only a {'UNet' if name == UNET else 'VAE'}", f"give it as {name}=, beside a whole model"
    return "is not a whole SDXL model", whole


def _account(weights: Weights, known: set[str]) -> None:
    """Raise for keys that are neither known nor ignorable."""
    unexpected = [key for key in weights if key not in known and not ignorable(key)]
    if unexpected:
        raise CheckpointError(
            f"{weights.where}: {len(unexpected)} tensors do not belong to this SDXL model: {summarize(unexpected)}; "
            "get the file again from where it was published, or convert it with the tool that made it"
        )


def _describe_single(weights: Weights, file: TensorFile) -> Description:
    if METADATA_KEY in file.metadata:
        return _description_from_json(file.metadata[METADATA_KEY], file.path)
    with naming(file.path):
        config = identify.infer_model(weights)
    kind, ends_at_zero = identify.prediction(weights, file.metadata) or ("epsilon", False)
    schedule = ScheduleConfig(prediction=kind, zero_terminal_snr=ends_at_zero)
    tokenizers = {TEXT_2: tokenizer.CLIP_G} | ({TEXT: tokenizer.CLIP_L} if config.text_encoder else {})
    with naming(file.path):
        return Description(config, schedule, config.kind != "refiner", tokenizers)


def _description_from_json(text: str, path: Path) -> Description:
    where = f"{path}, metadata {METADATA_KEY}"
    data = parse_json(text, where)
    try:
        first = data["text_encoder"]
        unet, vae = folder_json.read_unet(data["unet"], where), folder_json.read_vae(data["vae"], where)
        encoders = {TEXT: folder_json.read_text(first, False, where)} if first else {}
        encoders[TEXT_2] = folder_json.read_text(data["text_encoder_2"], True, where)
        schedule = folder_json.read_scheduler(data["scheduler"], where)
        zero_negative = bool(data["force_zeros_for_empty_prompt"])
        with naming(where):
            tokenizers = {name: TokenizerConfig.from_json(entry) for name, entry in data["tokenizers"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where} is damaged ({error!r}); write the file again") from error
    with naming(where):
        config = ModelConfig(unet, vae, encoders.get(TEXT), encoders[TEXT_2])
        about = Description(config, schedule, zero_negative, tokenizers)
        about.check_ids()
    return about


def _open_folder(path: Path, variant: str | None) -> Checkpoint:
    if "model_index.json" not in entries(path):
        raise CheckpointError(f"{path} has no model_index.json; give a diffusers folder or a .safetensors file")
    about = _describe_folder(path, read_json(path / "model_index.json"))
    rows = component_rows(about.config)
    return Checkpoint(
        about,
        {
            part: _open_folder_part(path / part, part, getattr(about.config, part), table, variant)
            for part, table in rows.items()
        },
    )


def check_folder(path: Path) -> None:
    """Raise for a diffusers folder that is no model of use here, by its JSON files; the weights may be missing."""
    _describe_folder(path, read_json(path / "model_index.json"))


def _describe_folder(path: Path, index: Mapping[str, Any]) -> Description:
    name = index.get("_class_name")
    if not isinstance(name, str) or "XL" not in name:
        raise CheckpointError(
            f"{path} holds a {name[:100] if isinstance(name, str) else 'nameless pipeline'}, not an SDXL model; "
            "give the folder of one"
        )
    present = {part: _is_there(path, index, part) for part in (TEXT, TEXT_2, UNET, VAE)}
    if absent := [part for part in (TEXT_2, UNET, VAE) if not present[part]]:
        raise CheckpointError(f"{path}: model_index.json names no {absent[0]}; the model is incomplete, fetch it again")
    encoders = [part for part in (TEXT, TEXT_2) if present[part]]
    for part in [*encoders, UNET, VAE, "scheduler"]:
        if not os.path.isdir(path / part):
            raise CheckpointError(f"{path / part} is missing, which model_index.json names; fetch the whole model")
        entries(path / part)  # an error that says so, if they may not be read
    files = {part: path / part / "config.json" for part in (*encoders, UNET, VAE)}
    texts = {part: folder_json.read_text(read_json(files[part]), part == TEXT_2, str(files[part])) for part in encoders}
    unet = folder_json.read_unet(read_json(files[UNET]), str(files[UNET]))
    vae = folder_json.read_vae(read_json(files[VAE]), str(files[VAE]))
    scheduler = path / "scheduler/scheduler_config.json"
    schedule = folder_json.read_scheduler(read_json(scheduler), str(scheduler))
    tokenizers = {part: tokenizer.read_folder(path / part.replace("text_encoder", "tokenizer")) for part in encoders}
    with naming(path):
        config = ModelConfig(unet, vae, texts.get(TEXT), texts[TEXT_2])
        zero_negative = bool(index.get("force_zeros_for_empty_prompt", config.kind != "refiner"))
        about = Description(config, schedule, zero_negative, tokenizers)
        about.check_ids()
    return about


def _is_there(path: Path, index: Mapping[str, Any], part: str) -> bool:
    """Whether model_index.json names a component: a list of its library and class, or of nulls."""
    entry = index.get(part) or [None]
    if not isinstance(entry, list):
        raise ConfigError(
            f"{path / 'model_index.json'}: {part} is {brief(entry)}; it must be a library and a class, fetch it again"
        )
    return entry[-1] is not None


def _open_files(path: Path, stem: str, variant: str | None) -> list[TensorFile]:
    names = entries(path)
    chosen = weight_files(names, stem, variant) or ([] if variant else weight_files(names, stem, "fp16"))
    if not chosen:
        pickled = any(name.endswith((".bin", ".ckpt", ".pt")) for name in names)
        why = "there is only a pickle, which is not read, get the other" if pickled else "fetch it"
        raise CheckpointError(f"{path / (stem + '.safetensors')} is missing; {why}")
    first = path / chosen[0]
    return open_shards(first) if first.suffix == ".json" else [TensorFile(first)]


def _open_folder_part(path: Path, part: str, config: Any, rows: list[Row], variant: str | None) -> Component:
    files = _open_files(path, FILE_NAMES[part], variant)
    bare = not any(key.startswith("text_model.") for file in files for key in file.shapes)
    weights = Weights(files, lambda key: canonical_folder_key(key, part, bare))
    component = Component(part, config, rows, "folder", weights)
    known = {row.folder for row in rows} | ({"text_projection.weight"} if part == TEXT else set())
    _account(weights, known)
    component.check()
    return component


def open_part(path: Path, name: str, like: ModelConfig, variant: str | None = None) -> Component:
    """The UNet or VAE (`name`) of a part file, a component's folder, or a whole model, to replace that of `like`.

    What neither shapes nor a config.json beside the file tell is taken from `like`.
    """
    if os.path.isdir(path):
        if "model_index.json" in entries(path):
            return _part_of_whole(path, name, variant)
        return _open_part_folder(path, name, variant)
    file = TensorFile(path)
    weights = Weights([file])
    if what := identify.foreign(weights):
        raise CheckpointError(f"{path} is {what}, not a {name} of SDXL; give one as {name}=")
    kind = identify.layout(weights)
    if kind == "whole":
        return _part_of_whole(path, name, variant)
    if kind == UNET and name == VAE and "VAE" not in identify.lacking(weights):
        kind = VAE  # beside a UNet, without text encoders
    if kind.removeprefix("folder ") != name:
        raise CheckpointError(
            f"{path} is {'a ' + kind if kind != 'unknown' else 'not a model file'}, not a {name} of SDXL; "
            f"give one as {name}="
        )
    if kind.startswith("folder ") and os.path.isfile(path.parent / "config.json"):
        config: Any = _read_part_config(path.parent / "config.json", name)
        language, prefix = "folder", ""
    else:
        language = "folder" if kind.startswith("folder ") else "single"
        prefix = identify.single_prefix(weights, name) if language == "single" else ""
        with naming(path):
            config = _infer_part(identify.strip(weights, prefix), name, language, like)
    return _account_part(file, name, config, language, prefix)


def _part_of_whole(path: Path, name: str, variant: str | None) -> Component:
    whole = open_checkpoint(path, variant)
    told = (whole.about.schedule.prediction, whole.about.schedule.zero_terminal_snr) if name == UNET else None
    return replace(whole.components[name], prediction=told)


def _open_part_folder(path: Path, name: str, variant: str | None) -> Component:
    if not os.path.isfile(path / "config.json"):
        raise CheckpointError(
            f"{path} has neither model_index.json nor config.json; it is no model folder, give one or a .safetensors "
            "file"
        )
    config: Any = _read_part_config(path / "config.json", name)
    return _open_folder_part(path, name, config, _part_rows(name, config, ""), variant)


def _read_part_config(path: Path, name: str) -> UNetConfig | VAEConfig:
    read = folder_json.read_unet if name == UNET else folder_json.read_vae
    return read(read_json(path), str(path))


def _infer_part(shapes: Mapping[str, tuple[int, ...]], name: str, language: str, like: ModelConfig) -> Any:
    if name == VAE:
        old, new = (
            like.vae,
            identify.infer_vae({canonical_folder_key(k, VAE, False): shapes[k] for k in shapes}, language),
        )
        return replace(new, norm_groups=old.norm_groups, scaling_factor=old.scaling_factor)
    unet = identify.infer_unet(shapes, language)
    same = unet.channels == like.unet.channels
    return replace(
        unet,
        heads=like.unet.heads if same else unet.heads,
        norm_groups=like.unet.norm_groups,
        norm_eps=like.unet.norm_eps,
        size_dim=like.unet.size_dim,
        sample_size=like.unet.sample_size,
    )


def _part_rows(name: str, config: Any, prefix: str) -> list[Row]:
    rows = unet_rows(config) if name == UNET else vae_rows(config)
    return [replace(row, single=prefix + row.single) for row in rows]


def _account_part(file: TensorFile, name: str, config: Any, language: str, prefix: str) -> Component:
    rename = (lambda key: canonical_folder_key(key, name, False)) if language == "folder" else str
    weights = Weights([file], rename)
    told = identify.prediction(file.shapes, file.metadata) if name == UNET else None
    part = Component(name, config, _part_rows(name, config, prefix), language, weights, told)
    others = {key for key in weights if prefix and key.startswith(PREFIXES) and not key.startswith(prefix)}
    _account(weights, {part.key(row) for row in part.rows} | others)
    part.check()
    return part
