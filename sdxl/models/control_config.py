"""What networks for control images are, as data. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import ConfigError
from .bounds import MOST_BLOCKS, MOST_DEPTH, MOST_LEVELS, MOST_WIDTH, bound
from .unet_config import UNetConfig

MOST_TYPES = 256  # 8, of a union
MOST_KERNEL = 64  # 4, of a ControlNet-LLLite


@dataclass(frozen=True)
class ControlNetConfig:
    """A ControlNet (Zhang et al. 2023, arXiv 2302.05543). `trunk` is the UNet whose contracting half it has; the `up`
    of that is not built.

    `hint` are the channels of the encoder of the control image, each but the first at half the resolution of the one
    before. A union has `types` of control images, embedded in `type_dim` numbers each, and `fusers` blocks that look
    at the whole image; 0 types: no union. With `is_bgr` it sees blue, green, red.
    """

    trunk: UNetConfig
    hint: tuple[int, ...] = (16, 32, 96, 256)
    types: int = 0
    type_dim: int = 256
    fusers: int = 1
    is_bgr: bool = False

    def __post_init__(self) -> None:
        bound("levels of the encoder of control images", [len(self.hint)], MOST_LEVELS)
        bound("channels of the encoder of control images", self.hint, MOST_WIDTH)
        bound("types of the ControlNet", [self.types], MOST_TYPES, least=0)
        bound("fuser blocks of the ControlNet", [self.fusers], MOST_BLOCKS)
        bound("the width of a type's embedding", [self.type_dim], MOST_WIDTH, least=2)
        if self.trunk.mid is None:
            raise ConfigError("the ControlNet has no middle block; download it again")
        if self.type_dim % 2:
            raise ConfigError(f"a type is embedded in {self.type_dim} numbers; it must be an even number")

    @property
    def factor(self) -> int:
        """Pixels of the control image per latent along one side."""
        return 2 ** (len(self.hint) - 1)


@dataclass(frozen=True)
class T2IAdapterConfig:
    """A T2I-Adapter for SDXL (Mou et al. 2023, arXiv 2302.08453). `image_channels` are 3, or 1 for grey images; the
    image is cut into squares of `factor` pixels a side. Each of the four `channels` has `blocks` residual blocks.
    """

    image_channels: int = 3
    channels: tuple[int, int, int, int] = (320, 640, 1280, 1280)
    blocks: int = 2
    factor: int = 16

    def __post_init__(self) -> None:
        bound("channels of the T2I-Adapter", self.channels, MOST_WIDTH)
        bound("blocks of the T2I-Adapter", [self.blocks], MOST_BLOCKS)
        if self.image_channels not in (1, 3):
            raise ConfigError(
                f"the T2I-Adapter takes images of {self.image_channels} channels; expected 1 or 3, give one for SDXL"
            )


@dataclass(frozen=True)
class LLLitePlace:
    """What a ControlNet-LLLite has for one projection of the UNet: `layer` is its name and `dim` the width of its
    input. The encoder of the control image has convolutions of these `channels` and `kernels`, which are their strides.
    """

    layer: str
    dim: int = 640
    rank: int = 64
    channels: tuple[int, ...] = (16, 32)
    kernels: tuple[int, ...] = (4, 4)

    def __post_init__(self) -> None:
        bound(f"convolutions of the ControlNet-LLLite for {self.layer}", [len(self.channels)], MOST_LEVELS)
        bound(f"widths of the ControlNet-LLLite for {self.layer}", (self.dim, self.rank, *self.channels), MOST_WIDTH)
        bound(f"kernels of the ControlNet-LLLite for {self.layer}", self.kernels, MOST_KERNEL)

    @property
    def factor(self) -> int:
        """Pixels of the control image per token along one side."""
        return math.prod(self.kernels)


@dataclass(frozen=True)
class LLLiteConfig:
    """A ControlNet-LLLite (github.com/kohya-ss/sd-scripts, docs/train_lllite_README.md) for some projections."""

    places: tuple[LLLitePlace, ...]

    def __post_init__(self) -> None:
        bound("projections of the ControlNet-LLLite", [len(self.places)], 4 * MOST_DEPTH)

    @property
    def factor(self) -> int:
        """Of which both sides of the control image must be multiples: each token of the UNet needs one of the image."""
        return math.lcm(*(place.factor for place in self.places))
