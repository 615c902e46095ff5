"""Training of SDXL's networks: initial weights, losses, optimizers, low-rank layers (LoRA), vectors for words
(textual inversion), distillation.

Loops and data belong to the recipe (`scripts/train_miniature.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exports import exports

if TYPE_CHECKING:
    from .control import control_loss as control_loss
    from .control import save_controlnet as save_controlnet
    from .control import start_controlnet as start_controlnet
    from .distillation import distillation_loss as distillation_loss
    from .inversion import WordEncoder as WordEncoder
    from .inversion import save_embedding as save_embedding
    from .lora import LowRank as LowRank
    from .lora import attach_lora as attach_lora
    from .lora import detach_lora as detach_lora
    from .lora import load_network as load_network
    from .lora import save_lora as save_lora
    from .losses import autoencoder_loss as autoencoder_loss
    from .losses import captioned_loss as captioned_loss
    from .losses import denoising_loss as denoising_loss
    from .losses import encode_captions as encode_captions
    from .losses import offset_noise as offset_noise
    from .losses import stratified_timesteps as stratified_timesteps
    from .optimizers import Muon as Muon
    from .optimizers import cosine_rate as cosine_rate
    from .optimizers import make_optimizers as make_optimizers
    from .optimizers import update_average as update_average
    from .reference import reference_loss as reference_loss
    from .reference import save_image_encoder as save_image_encoder
    from .reference import save_ip_adapter as save_ip_adapter
    from .reference import start_ip_adapter as start_ip_adapter
    from .start import start_text_encoder as start_text_encoder
    from .start import start_unet as start_unet
    from .start import start_vae as start_vae
else:  # a type checker that saw it would take any name
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "control": ("control_loss", "save_controlnet", "start_controlnet"),
            "distillation": ("distillation_loss",),
            "inversion": ("WordEncoder", "save_embedding"),
            "lora": ("LowRank", "attach_lora", "detach_lora", "load_network", "save_lora"),
            "losses": (
                "autoencoder_loss",
                "captioned_loss",
                "denoising_loss",
                "encode_captions",
                "offset_noise",
                "stratified_timesteps",
            ),
            "optimizers": ("Muon", "cosine_rate", "make_optimizers", "update_average"),
            "reference": ("reference_loss", "save_image_encoder", "save_ip_adapter", "start_ip_adapter"),
            "start": ("start_text_encoder", "start_unet", "start_vae"),
        },
    )
