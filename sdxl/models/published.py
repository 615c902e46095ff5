"""The published models, as values of the configs."""

from __future__ import annotations

from dataclasses import replace

from .config import ModelConfig, TextConfig, VAEConfig
from .unet_config import UNetConfig

CLIP_L = TextConfig()
CLIP_G = TextConfig(dim=1280, ff_dim=5120, layers=32, heads=20, activation="gelu", projection_dim=1280)
VAE = VAEConfig()
BASE_UNET = UNetConfig()
REFINER_UNET = UNetConfig(
    channels=(384, 768, 1536, 1536),
    down=((None, None), (4, 4), (4, 4), (None, None)),
    mid=4,
    up=((None, None, None), (4, 4, 4), (4, 4, 4), (None, None, None)),
    heads=(6, 12, 24, 24),
    context_dim=1280,
    vector_dim=2560,
)
INPAINTING_UNET = replace(BASE_UNET, in_channels=9)
SSD_1B_UNET = replace(
    BASE_UNET, down=((None, None), (2, 2), (4, 4)), mid=-1, up=((4, 4, 10), (2, 1, 1), (None, None, None))
)
VEGA_UNET = replace(
    BASE_UNET, down=((None, None), (1, 1), (2, 2)), mid=-1, up=((2, 2, 2), (1, 1, 1), (None, None, None))
)
KOALA_700M_UNET = replace(BASE_UNET, down=((None,), (2,), (5,)), mid=None, up=((5, 5), (2, 2), (None, None)))
KOALA_1B_UNET = replace(BASE_UNET, down=((None,), (2,), (6,)), mid=6, up=((6, 6), (2, 2), (None, None)))

BASE = ModelConfig(BASE_UNET, VAE, CLIP_L, CLIP_G)
REFINER = ModelConfig(REFINER_UNET, VAE, None, CLIP_G)
INPAINTING = ModelConfig(INPAINTING_UNET, VAE, CLIP_L, CLIP_G)
