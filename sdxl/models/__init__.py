"""What the networks are: UNet, text encoders, VAE, their layers and their configs. No files, no hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exports import exports

if TYPE_CHECKING:
    from .clip import TextEncoder as TextEncoder
    from .conditioned import ConditionedUNet as ConditionedUNet
    from .conditioned import Conditioning as Conditioning
    from .conditioned import precompute as precompute
    from .config import BASE as BASE
    from .config import INPAINTING as INPAINTING
    from .config import REFINER as REFINER
    from .config import ModelConfig as ModelConfig
    from .config import ScheduleConfig as ScheduleConfig
    from .config import TextConfig as TextConfig
    from .config import UNetConfig as UNetConfig
    from .config import VAEConfig as VAEConfig
    from .layers import Attention as Attention
    from .layers import Source as Source
    from .unet import Contracting as Contracting
    from .unet import Memory as Memory
    from .unet import Residuals as Residuals
    from .unet import UNet as UNet
    from .vae import VAE as VAE

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "clip": ("TextEncoder",),
        "conditioned": ("ConditionedUNet", "Conditioning", "precompute"),
        "config": (
            "BASE",
            "INPAINTING",
            "REFINER",
            "ModelConfig",
            "ScheduleConfig",
            "TextConfig",
            "UNetConfig",
            "VAEConfig",
        ),
        "layers": ("Attention", "Source"),
        "unet": ("Contracting", "Memory", "Residuals", "UNet"),
        "vae": ("VAE",),
    },
)
