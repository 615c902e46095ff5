"""Everything about a model except its weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import CheckpointError, ConfigError, naming
from ..models.config import ModelConfig, TextConfig, VAEConfig
from ..models.schedule_config import EDM, ScheduleConfig
from ..sampling.presets import Family
from ..text import vocabulary
from ..text.vocabulary import TokenizerConfig
from . import diffusers_config, identify
from .container import TensorFile
from .folder import parse_json
from .infer import infer_model
from .keymap import TEXT, TEXT_2

METADATA_KEY = "sdxl.model"  # of a single file's metadata: the values that shapes do not show


@dataclass(frozen=True)
class ModelInfo:
    """Everything about a model except its weights. `zero_negative`: without a negative prompt, context and pooled
    embedding are zeros instead of the encoded empty text. `tokenizers` have the names of the text encoders. `family`
    is that of a distilled or otherwise changed model, whose preset fills in what a request leaves open.
    """

    config: ModelConfig
    schedule: ScheduleConfig
    zero_negative: bool
    tokenizers: dict[str, TokenizerConfig]
    family: Family | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.tokenizers.keys() != self.encoders.keys():
            raise ConfigError(
                f"there are tokenizers for {list(self.tokenizers)} and text encoders {list(self.encoders)}; download "
                "the model again"
            )
        lengths = {min(self.tokenizers[name].length, each.positions) for name, each in self.encoders.items()}
        if len(lengths) != 1:
            raise ConfigError(
                f"the text encoders read different numbers of tokens, {sorted(lengths)}; use encoders of the same model"
            )

    @property
    def encoders(self) -> dict[str, TextConfig]:
        """The text encoders by name."""
        both = {TEXT: self.config.text_encoder, TEXT_2: self.config.text_encoder_2}
        return {name: config for name, config in both.items() if config}

    def check_ids(self) -> None:
        """Raise `ConfigError` if a tokenizer gives ids that its encoder has no vector for."""
        for name, encoder in self.encoders.items():
            if (size := self.tokenizers[name].size) > encoder.vocab_size:
                raise ConfigError(
                    f"the tokenizer of the {name} gives ids up to {size - 1}, and the encoder's vocab_size is "
                    f"{encoder.vocab_size}; use a tokenizer and an encoder of the same model"
                )

    def to_json(self) -> str:
        """The JSON that `info_from_file` reads."""
        config = self.config
        assert isinstance(config.vae, VAEConfig)  # a model with a tiny VAE is not written
        data = {
            "unet": diffusers_config.write_unet(config.unet),
            "vae": diffusers_config.write_vae(config.vae),
            "text_encoder": config.text_encoder and diffusers_config.write_text(config.text_encoder),
            "text_encoder_2": diffusers_config.write_text(config.text_encoder_2),
            "scheduler": diffusers_config.write_scheduler(self.schedule),
            "force_zeros_for_empty_prompt": self.zero_negative,
            "tokenizers": {name: data.to_json() for name, data in self.tokenizers.items()},
        }
        return json.dumps(data, ensure_ascii=False, sort_keys=True)


def info_from_file(file: TensorFile) -> ModelInfo:
    """The info of a single file: from this package's metadata, else from shapes and other tools' metadata."""
    if METADATA_KEY in file.metadata:
        return _from_metadata(file.metadata[METADATA_KEY], f"{file.path}, metadata {METADATA_KEY}")
    with naming(file.path):
        config = infer_model(file.shapes)
        schedule = _schedule(file)
        if schedule.prediction == "edm":
            config = replace(config, vae=replace(config.vae, **_playground_latents(file)))
        tokenizers = {TEXT_2: vocabulary.CLIP_G} | ({TEXT: vocabulary.CLIP_L} if config.text_encoder else {})
        return ModelInfo(config, schedule, config.kind != "refiner", tokenizers)


def _schedule(file: TensorFile) -> ScheduleConfig:
    """The noise of a single file that has not this package's metadata."""
    if (edm := identify.edm(file.shapes)) is None:
        prediction = identify.prediction(file.shapes, file.metadata, str(file.path)) or ("epsilon", False)
        return ScheduleConfig(schedule_is_stated=False).of_network(*prediction)
    if edm == "edm":
        return ScheduleConfig(sampler="dpmpp_2m", schedule="karras", prediction=edm, edm=EDM(), steps_offset=0)
    least, most = (_numbers(file, key, 1, EDM_VPRED[key])[0] for key in EDM_VPRED)
    return ScheduleConfig(schedule="exponential", prediction=edm, edm=EDM(least, most, sigma_data=1.0), steps_offset=0)


EDM_VPRED = {"edm_vpred.sigma_min": 0.002, "edm_vpred.sigma_max": 120.0}
"""The keys of the noise levels of CosXL with their usual values."""


def _playground_latents(file: TensorFile) -> dict[str, Any]:
    """The scale of the latents of Playground v2.5, in fields of the VAE's config."""
    names = {"latents_mean": "edm_mean", "latents_std": "edm_std"}
    channels = file.shapes["first_stage_model.post_quant_conv.weight"][0]
    return {"scaling_factor": 0.5, **{name: _numbers(file, key, channels) for name, key in names.items()}}


def _numbers(file: TensorFile, key: str, count: int, default: float | None = None) -> tuple[float, ...]:
    if key not in file.shapes and default is not None:
        return (default,)
    if key not in file.shapes or math.prod(file.shapes[key]) != count:
        shape = f"shape {list(file.shapes[key])}" if key in file.shapes else "missing"
        raise CheckpointError(f"{key} is {shape}; expected {count} numbers, download the file again")
    return tuple(file.read(key).double().flatten().tolist())


def _from_metadata(text: str, where: str) -> ModelInfo:
    data = parse_json(text, where)
    try:
        encoders = _read_encoders(data, where)
        unet, vae = diffusers_config.read_unet(data["unet"], where), diffusers_config.read_vae(data["vae"], where)
        schedule = diffusers_config.read_scheduler(data["scheduler"], where)
        zero_negative = bool(data["force_zeros_for_empty_prompt"])
        with naming(where):
            tokenizers = {name: TokenizerConfig.from_json(entry) for name, entry in data["tokenizers"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where} is damaged ({error!r}); write the file again") from error
    with naming(where):
        config = ModelConfig(unet, vae, encoders.get(TEXT), encoders[TEXT_2])
        info = ModelInfo(config, schedule, zero_negative, tokenizers)
        info.check_ids()
    return info


def _read_encoders(data: Mapping[str, Any], where: str) -> dict[str, TextConfig]:
    first = data["text_encoder"]
    encoders = {TEXT: diffusers_config.read_text(first, False, where)} if first else {}
    return encoders | {TEXT_2: diffusers_config.read_text(data["text_encoder_2"], True, where)}
