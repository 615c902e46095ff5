"""The config.json of CLIP's text encoders and image encoders, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError, brief
from ...models.config import TextConfig
from ...models.vision_config import VisionConfig
from .values import Json, make, number, whole, word


def read_text(data: Json, projection: bool, where: str = "text_encoder/config.json") -> TextConfig:
    """The config of a text encoder, with or without a `projection`, from transformers' `CLIPTextConfig` JSON."""
    eos = data.get("eos_token_id", 49407)
    if isinstance(eos, bool) or not isinstance(eos, int):
        raise ConfigError(f"{where}: eos_token_id is {brief(eos)}; it must be a whole number")
    return make(
        TextConfig,
        where,
        vocab_size=whole(data, "vocab_size", 49408, where),
        positions=whole(data, "max_position_embeddings", 77, where),
        **_transformer(data, (512, 2048, 8), where),
        projection_dim=whole(data, "projection_dim", 512, where) if projection else None,
        eos_id=None if eos == 2 else eos,
    )


def _transformer(data: Json, defaults: tuple[int, int, int], where: str) -> dict[str, Any]:
    """What the configs of CLIP's encoders have in common; `defaults` are those of the widths and the heads."""
    dim, ff_dim, heads = defaults
    return {
        "dim": whole(data, "hidden_size", dim, where),
        "ff_dim": whole(data, "intermediate_size", ff_dim, where),
        "layers": whole(data, "num_hidden_layers", 12, where),
        "heads": whole(data, "num_attention_heads", heads, where),
        "activation": word(data, "hidden_act", "quick_gelu", where),
        "norm_eps": number(data, "layer_norm_eps", 1e-5, where),
    }


def read_vision(data: Json, where: str = "image_encoder/config.json") -> VisionConfig:
    """The config of an image encoder, from transformers' `CLIPVisionConfig` JSON or the one within a `CLIPConfig`."""
    own = data.get("vision_config", data)
    own = own if isinstance(own, Mapping) else {}
    return make(
        VisionConfig,
        where,
        **_transformer(own, (768, 3072, 12), where),
        patch=whole(own, "patch_size", 32, where),
        image_size=whole(own, "image_size", 224, where),
        projection_dim=whole(data if "projection_dim" in data else own, "projection_dim", 512, where),
    )


def write_vision(config: VisionConfig) -> dict[str, Any]:
    """The `CLIPVisionConfig` JSON of an image encoder."""
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_size": config.dim,
        "intermediate_size": config.ff_dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "patch_size": config.patch,
        "image_size": config.image_size,
        "projection_dim": config.projection_dim,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_eps,
    }


def write_text(config: TextConfig) -> dict[str, Any]:
    """The JSON that `read_text` and transformers read."""
    name = "CLIPTextModel" if config.projection_dim is None else "CLIPTextModelWithProjection"
    return {
        "architectures": [name],
        "eos_token_id": 2 if config.eos_id is None else config.eos_id,
        "hidden_act": config.activation,
        "hidden_size": config.dim,
        "intermediate_size": config.ff_dim,
        "layer_norm_eps": config.norm_eps,
        "max_position_embeddings": config.positions,
        "model_type": "clip_text_model",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "projection_dim": config.projection_dim or config.dim,
        "vocab_size": config.vocab_size,
    }
