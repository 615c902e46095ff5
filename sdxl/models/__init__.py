"""What the networks are: UNet, text encoders, VAE, their layers and their configs. No files, no hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exports import exports

if TYPE_CHECKING:
    from .clip import TextEncoder as TextEncoder
    from .conditioned import ConditionedUNet as ConditionedUNet
    from .conditioned import Conditioning as Conditioning
    from .conditioned import precompute as precompute
    from .config import ModelConfig as ModelConfig
    from .config import TextConfig as TextConfig
    from .config import VAEConfig as VAEConfig
    from .control_config import ControlNetConfig as ControlNetConfig
    from .control_config import LLLiteConfig as LLLiteConfig
    from .control_config import LLLitePlace as LLLitePlace
    from .control_config import T2IAdapterConfig as T2IAdapterConfig
    from .controlnet import ControlNet as ControlNet
    from .ip_adapter import IPAdapter as IPAdapter
    from .layers import Attention as Attention
    from .layers import Source as Source
    from .lllite import LLLite as LLLite
    from .published import BASE as BASE
    from .published import INPAINTING as INPAINTING
    from .published import REFINER as REFINER
    from .schedule_config import ScheduleConfig as ScheduleConfig
    from .t2i_adapter import T2IAdapter as T2IAdapter
    from .tiny_vae import TinyVAE as TinyVAE
    from .tiny_vae_config import TinyVAEConfig as TinyVAEConfig
    from .unet import Contracting as Contracting
    from .unet import Memory as Memory
    from .unet import Residuals as Residuals
    from .unet import TransformerBlock as TransformerBlock
    from .unet import UNet as UNet
    from .unet_config import UNetConfig as UNetConfig
    from .vae import VAE as VAE
    from .vision import VisionEncoder as VisionEncoder
    from .vision_config import IPAdapterConfig as IPAdapterConfig
    from .vision_config import VisionConfig as VisionConfig
else:  # a type checker that saw it would take any name
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "clip": ("TextEncoder",),
            "conditioned": ("ConditionedUNet", "Conditioning", "precompute"),
            "config": ("ModelConfig", "TextConfig", "VAEConfig"),
            "control_config": ("ControlNetConfig", "LLLiteConfig", "LLLitePlace", "T2IAdapterConfig"),
            "controlnet": ("ControlNet",),
            "ip_adapter": ("IPAdapter",),
            "layers": ("Attention", "Source"),
            "lllite": ("LLLite",),
            "published": ("BASE", "INPAINTING", "REFINER"),
            "schedule_config": ("ScheduleConfig",),
            "t2i_adapter": ("T2IAdapter",),
            "tiny_vae": ("TinyVAE",),
            "tiny_vae_config": ("TinyVAEConfig",),
            "unet": ("Contracting", "Memory", "Residuals", "TransformerBlock", "UNet"),
            "unet_config": ("UNetConfig",),
            "vae": ("VAE",),
            "vision": ("VisionEncoder",),
            "vision_config": ("IPAdapterConfig", "VisionConfig"),
        },
    )
