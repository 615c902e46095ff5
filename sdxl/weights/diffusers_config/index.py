"""A model_index.json, written."""

from __future__ import annotations

from typing import Any

from ...models.config import ModelConfig
from ...models.schedule_config import ScheduleConfig
from .scheduler import write_scheduler
from .vae import VAE_CLASS


def write_index(config: ModelConfig, scheduler: ScheduleConfig, zero_negative: bool) -> dict[str, Any]:
    """model_index.json: the components of the folder and their classes."""
    first = config.text_encoder is not None
    names = {"base": "StableDiffusionXLPipeline", "inpainting": "StableDiffusionXLInpaintPipeline"}
    return {
        "_class_name": names.get(config.kind, "StableDiffusionXLImg2ImgPipeline"),
        "force_zeros_for_empty_prompt": zero_negative,
        **({"requires_aesthetics_score": True} if config.kind == "refiner" else {}),
        "scheduler": ["diffusers", write_scheduler(scheduler)["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"] if first else [None, None],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"] if first else [None, None],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", VAE_CLASS],
    }
