"""Tiny diffusers and transformers models with random weights, saved as folders: the independent reference.

To import this skips a test, or a module of tests, where diffusers or transformers is not installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    TCDScheduler,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from PIL import Image, ImageDraw
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

PLACES = 77
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": (2, 4, 8),
    "transformer_layers_per_block": (1, 1, 2),
    "norm_num_groups": 8,
    "cross_attention_dim": 48,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 32 + 6 * 8,
    "use_linear_projection": True,
}
REFINER = UNET | {
    "block_out_channels": (32, 64, 64, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (2, 4, 8, 8),
    "transformer_layers_per_block": 2,
    "cross_attention_dim": 32,
    "projection_class_embeddings_input_dim": 32 + 5 * 8,
}
VAE: dict[str, Any] = {
    "block_out_channels": (16, 16, 32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "scaling_factor": 0.13025,
}
# the smallest of each kind of level: of most tests, and of the fixtures that travel with them
SMALL_UNET = UNET | {
    "block_out_channels": (16, 16, 32),
    "attention_head_dim": (1, 2, 4),
    "layers_per_block": 1,
    "transformer_layers_per_block": (1, 1, 2),
    "norm_num_groups": 4,
}
SMALL_REFINER = REFINER | {
    "block_out_channels": (16, 16, 32, 32),
    "attention_head_dim": (1, 2, 4, 4),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
SMALL_VAE = VAE | {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}
WORDS = [
    "a",
    "mecha",
    "robot",
    "in",
    "the",
    "favela",
    "expressionist",
    "style",
    "cat",
    "dog",
    "photo",
    "of",
    "red",
    "!",
]


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A small byte-pair vocabulary in CLIP's form, "!" having id 0."""
    letters = [chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))]
    letters += [chr(256 + n) for n in range(256 - len(letters))]
    tokens, merges = letters + [c + "</w>" for c in letters], []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            if (parts[0], parts[1]) not in merges:
                merges.append((parts[0], parts[1]))
                tokens.append(parts[0] + parts[1])
            parts = [parts[0] + parts[1], *parts[2:]]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    return {token: n for n, token in enumerate(tokens)}, merges


def tokenizers() -> tuple[CLIPTokenizer, CLIPTokenizer]:
    ids, merges = vocabulary()
    first = CLIPTokenizer(vocab=ids, merges=merges, model_max_length=PLACES)
    return first, CLIPTokenizer(vocab=ids, merges=merges, model_max_length=PLACES, pad_token="!")


def shake(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Random weights with no symmetric or zero part, so that every path of the network matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_(0.1 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
            else:
                weight.copy_(noise / weight[0].numel() ** 0.5)
            weight.copy_(weight.half().float())  # so that float16 files hold the same numbers
    return module.eval()


def text_config(dim: int, layers: int, act: str, eos: int, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(vocabulary()[0]),
        hidden_size=dim,
        intermediate_size=2 * dim,
        num_hidden_layers=layers,
        num_attention_heads=2,
        hidden_act=act,
        projection_dim=projection,
        eos_token_id=eos,
    )


def unet(config: dict[str, Any] = SMALL_UNET, seed: int = 0) -> UNet2DConditionModel:
    return shake(UNet2DConditionModel(**config), seed)  # type: ignore[return-value]


def vae(config: dict[str, Any] = SMALL_VAE, seed: int = 1) -> AutoencoderKL:
    return shake(AutoencoderKL(**config), seed)  # type: ignore[return-value]


def clip_l(seed: int = 2) -> CLIPTextModel:
    return shake(CLIPTextModel(text_config(16, 3, "quick_gelu", 2, 16)), seed)  # type: ignore[return-value]


def clip_g(seed: int = 3, eos: int | None = None) -> CLIPTextModelWithProjection:
    eos = vocabulary()[0]["<|endoftext|>"] if eos is None else eos
    return shake(CLIPTextModelWithProjection(text_config(32, 4, "gelu", eos, 32)), seed)  # type: ignore[return-value]


def pipeline(
    unet_config: dict[str, Any] = SMALL_UNET, vae_config: dict[str, Any] = SMALL_VAE
) -> StableDiffusionXLPipeline:
    """The whole tiny base model as diffusers has it."""
    first, second = tokenizers()
    pipe = StableDiffusionXLPipeline(
        vae=vae(vae_config),
        text_encoder=clip_l(),
        text_encoder_2=clip_g(),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet(unet_config),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def inpainting(
    channels: int = 4, unet_config: dict[str, Any] = SMALL_UNET, vae_config: dict[str, Any] = SMALL_VAE
) -> StableDiffusionXLInpaintPipeline:
    """The tiny base model, or the tiny inpainting model of 9 channels, as diffusers inpaints with it."""
    parts = pipeline(unet_config | {"in_channels": channels}, vae_config).components
    pipe = StableDiffusionXLInpaintPipeline(**parts, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def refiner() -> StableDiffusionXLImg2ImgPipeline:
    """The tiny refiner as diffusers has it."""
    pipe = StableDiffusionXLImg2ImgPipeline(
        vae=vae(),
        text_encoder=None,
        text_encoder_2=clip_g(),
        tokenizer=None,
        tokenizer_2=tokenizers()[1],
        unet=unet(SMALL_REFINER),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def scheduler(sampler: str, schedule: str, **more: Any) -> Any:
    """diffusers' scheduler for our sampler and schedule."""
    config = SCHEDULER | more
    config |= {"use_karras_sigmas": True} if schedule == "karras" else {"timestep_spacing": schedule}
    if sampler == "ddim":
        config |= {"clip_sample": False, "set_alpha_to_one": False}
    if schedule == "lcm":
        del config["timestep_spacing"]
        config |= {"set_alpha_to_one": False}
    config |= {"algorithm_type": "sde-dpmsolver++"} if "m_sde" in sampler else {}
    config |= {"solver_type": "heun"} if sampler in ("dpmpp_2m_sde_heun", "res_multistep") else {}
    return {
        "euler": EulerDiscreteScheduler,
        "euler_ancestral": EulerAncestralDiscreteScheduler,
        "heun": HeunDiscreteScheduler,
        "ddim": DDIMScheduler,
        "dpm_2": KDPM2DiscreteScheduler,
        "dpm_2_ancestral": KDPM2AncestralDiscreteScheduler,
        "dpmpp_2m": DPMSolverMultistepScheduler,
        "dpmpp_2m_sde": DPMSolverMultistepScheduler,
        "dpmpp_2m_sde_heun": DPMSolverMultistepScheduler,
        "res_multistep": DPMSolverMultistepScheduler,
        "lcm": LCMScheduler,
        "lms": LMSDiscreteScheduler,
        "tcd": TCDScheduler,
        "uni_pc_bh2": UniPCMultistepScheduler,
    }[sampler](**config)


def picture(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    """An image of soft blobs and noise."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height))
    noise = generator.integers(-20, 21, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def mask(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    """A black mask with a white box and a white disc, away from the grid of latents."""
    drawn = Image.new("L", (width, height), 0)
    pen, x = ImageDraw.Draw(drawn), 3 * seed % 11
    pen.rectangle((width // 4 + x, height // 3, width // 2 + x, height - 9), fill=255)
    pen.ellipse((width // 2, 2 + x, width - 6, height // 2), fill=255)
    return drawn


def save_refiner(folder: Path) -> None:
    """A refiner's folder: bigG and its tokenizer only."""
    _, second = tokenizers()
    unet(SMALL_REFINER).save_pretrained(folder / "unet")
    vae().save_pretrained(folder / "vae")
    clip_g().save_pretrained(folder / "text_encoder_2")
    second.save_pretrained(folder / "tokenizer_2")
    EulerDiscreteScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionXLImg2ImgPipeline",
        "requires_aesthetics_score": True,
        "force_zeros_for_empty_prompt": False,
        "text_encoder": [None, None],
        "tokenizer": [None, None],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
