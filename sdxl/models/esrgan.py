"""The generator of ESRGAN (arXiv 1809.00219, section 3.1) and Real-ESRGAN (arXiv 2107.10833, section 3.3), which
enlarges an image: RGB (B, 3, H, W) in 0..1 to (B, 3, scale * H, scale * W), about 0..1, not clamped.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .esrgan_config import ESRGANConfig
from .layers import Conv2d, unshared

_RESIDUAL = 0.2  # the share of a block that is added to what went into it
_HALO = 2  # rows of features beyond a strip, from which its own rows of the image follow
_act = partial(F.leaky_relu, negative_slope=0.2, inplace=True)


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees the block's input and the outputs of those before it."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        wide = [width + n * growth for n in range(5)]
        self.conv1, self.conv2, self.conv3, self.conv4 = (Conv2d(n, growth, 3, padding=1) for n in wide[:4])
        self.conv5 = Conv2d(wide[4], width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen.append(_act(unshared(conv(torch.cat(seen, 1)), conv)))
        return self.conv5(torch.cat(seen, 1)) * _RESIDUAL + x


class RRDB(nn.Module):
    """Three dense blocks, residual in a residual."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(width, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.rdb3(self.rdb2(self.rdb1(x))) * _RESIDUAL + x


class ESRGAN(nn.Module):
    """The whole. What is small is computed for the whole image, `features`, and what is large in strips of it."""

    def __init__(self, config: ESRGANConfig) -> None:
        super().__init__()
        self.config = config
        width, conv = config.width, partial(Conv2d, kernel_size=3, padding=1)
        self.conv_first = conv(config.image_channels * config.fold**2, width)
        self.body = nn.Sequential(*(RRDB(width, config.growth) for _ in range(config.blocks)))
        self.conv_body = conv(width, width)
        self.conv_up = nn.ModuleList(conv(width, width) for _ in range(config.doublings))
        self.conv_hr = conv(width, width)
        self.conv_last = conv(width, config.image_channels)

    def forward(self, x: Tensor, strip: int | None = None) -> Tensor:
        """The enlarged images. With a `strip`, so many rows of x are enlarged at a time, which takes less memory and
        gives the same within rounding. Sides that `fold` does not divide are filled up by mirroring, and cut off again.
        """
        height, width = x.shape[2:]
        fold, scale = self.config.fold, self.config.scale
        features = self.features(F.pad(x, (0, -width % fold, 0, -height % fold), mode="reflect") if fold > 1 else x)
        rows = features.shape[2] if strip is None else max(strip // fold, 1)
        parts = [self._strip(features, top, rows) for top in range(0, features.shape[2], rows)]
        return torch.cat(parts, 2)[..., : height * scale, : width * scale]

    def features(self, x: Tensor) -> Tensor:
        """Images to their features (B, width, H / fold, W / fold)."""
        if self.config.fold > 1:
            x = F.pixel_unshuffle(x, self.config.fold)
        first = self.conv_first(x)
        return first + self.conv_body(self.body(first))

    def enlarge(self, features: Tensor) -> Tensor:
        """Features (B, width, h, w) to images, 2 ** doublings times as large."""
        x = features
        for conv in self.conv_up:
            x = _act(unshared(conv(F.interpolate(x, scale_factor=2.0, mode="nearest")), conv))
        return self.conv_last(_act(unshared(self.conv_hr(x), self.conv_hr)))

    def _strip(self, features: Tensor, top: int, rows: int) -> Tensor:
        """The images of some rows of features. Rows beyond them are computed too, and cut off."""
        begin, end = max(top - _HALO, 0), top + rows + _HALO
        factor = 2**self.config.doublings
        image = self.enlarge(features[:, :, begin:end])
        return image[:, :, (top - begin) * factor :][:, :, : rows * factor]
