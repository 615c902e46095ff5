"""T2I-Adapter (Mou et al. 2023, arXiv 2302.08453): a small network whose features of a control image are added inside
the UNet's contracting half, the same in all steps.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from .control_config import T2IAdapterConfig
from .layers import Conv2d
from .unet import Residuals
from .unet_config import UNetConfig


class AdapterBlock(nn.Module):
    """A 3x3 and a 1x1 convolution, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels, channels, 3, padding=1)
        self.conv2 = Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class AdapterLevel(nn.Module):
    """The blocks behind one feature map."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int) -> None:
        super().__init__()
        self.conv_in = None if in_channels == out_channels else Conv2d(in_channels, out_channels, 1)
        self.blocks = nn.ModuleList(AdapterBlock(out_channels) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.conv_in is None else self.conv_in(x)
        for block in self.blocks:
            x = block(x)
        return x


class T2IAdapter(nn.Module):
    """The adapter of SDXL: features at 1/16, 1/16, 1/32 and 1/32 of the image's size."""

    def __init__(self, config: T2IAdapterConfig) -> None:
        super().__init__()
        self.config = config
        first = config.channels[0]
        self.conv_in = Conv2d(config.image_channels * config.factor**2, first, 3, padding=1)
        pairs = pairwise([first, *config.channels])
        self.levels = nn.ModuleList(AdapterLevel(i, o, config.blocks) for i, o in pairs)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The four feature maps of a control image (B, image_channels, H, W) in 0..1, whose sides need be no multiples
        of 16: its edges are repeated as far as that.
        """
        factor = self.config.factor
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % factor, 0, -height % factor), mode="replicate")
        x = self.conv_in(F.pixel_unshuffle(x, factor))
        features = []
        for number, level in enumerate(self.levels):
            x = level(F.avg_pool2d(x, 2, ceil_mode=True) if number == 2 else x)
            features.append(x)
        return features


def feature_places(config: UNetConfig) -> tuple[int, int, int]:
    """The numbers of the skip connections at which the first three features are added: behind the first level with its
    downsampling, the second without, and the third. The fourth is added to the output of the middle block.
    """
    first, second, third = (len(level) for level in config.down)
    return first + 1, first + second + 1, first + second + third + 2


def as_residuals(features: list[Tensor], config: UNetConfig) -> Residuals:
    """Features as what is added inside a UNet."""
    return Residuals(mid=features[3], path=dict(zip(feature_places(config), features[:3], strict=True)))
