"""3x3 convolutions with 16 products for every four outputs in place of 36, for a CPU in float32: F(2x2, 3x3) of Lavin &
Gray 2015, arXiv 1509.09308. The same numbers but for their rounding, which is rather less.

An image is cut into tiles of 2x2 outputs, which need 4x4 inputs. A tile's inputs d, the weights g and its outputs y
are tied by  y = A' [(G g G') * (B' d B)] A  with the small matrices of the paper, all 0, 1, -1 and 1/2, so that the
product in brackets, over all channels, is 16 products of matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..models.layers import Conv2d
from .scratch import scratch
from .sealed import Sealed

GROWTH = 16 / 9  # of the weights
_NARROW = 128  # channels below which arranging the tiles takes longer than it saves
_TILES = 128  # that make a product of matrices worth its while
_BAND = 1 << 16  # numbers of each of the 16 parts of a band of tiles, so that they stay in the processor's cache


def suits(layer: Conv2d) -> bool:
    """Whether Winograd's algorithm computes a convolution, and faster."""
    geometry = layer.stride, layer.padding, layer.dilation, layer.groups
    return geometry == ((1, 1), (1, 1), (1, 1), 1) and is_wide(layer.weight.shape)


def is_wide(shape: Sequence[int]) -> bool:
    """Whether weights of a shape are those of a 3x3 convolution with so many channels that this is faster."""
    return tuple(shape[2:]) == (3, 3) and min(shape[:2]) >= _NARROW


class WinogradConv2d(Sealed):
    """A 3x3 convolution of stride 1 and padding 1, over feature maps in channels_last."""

    def __init__(self, plain: Conv2d) -> None:
        super().__init__()
        weight = plain.weight.detach().permute(2, 3, 1, 0)
        g = scratch.take("g", weight.shape, torch.float32).copy_(weight)
        rows = _weights(g, scratch.take("rows", (4, *g.shape[1:]), g.dtype))
        self.weights = _weights(rows.transpose(0, 1), torch.empty(4, 4, *g.shape[2:])).flatten(0, 1)  # (16, in, out)
        self.bias = None if plain.bias is None else plain.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in, H, W) to (B, out, H, W)."""
        height, width = self.checked(x).shape[2:]
        if height % 2 or width % 2:
            return self(nn.functional.pad(x, (0, width % 2, 0, height % 2)))[:, :, :height, :width]
        x = x.permute(0, 2, 3, 1)
        y = x.new_empty(len(x), height, width, self.weights.shape[2])
        across = len(x) * width // 2
        rows = 2 * max(1, max(_TILES, _BAND // max(self.weights.shape[1:])) // across)
        for top in range(0, height, rows):
            self._tiles(_borrow(x, top, min(top + rows, height)), y[:, top : top + rows])
        return y.permute(0, 3, 1, 2)

    def _tiles(self, x: Tensor, y: Tensor) -> None:
        """Fill y (B, h, w, out) from x (B, h + 2, w + 2, in)."""
        batch, height, width, channels = y.shape
        half = batch, height // 2, width // 2
        rows = _inputs([x[:, i : i + height : 2] for i in range(4)], "rows")
        d = _inputs([rows[..., i : i + width : 2, :] for i in range(4)], "d")  # (columns, rows, B, h/2, w/2, in)
        products = scratch.take("products", (16, math.prod(half), channels), x.dtype)
        m = torch.bmm(d.view(16, math.prod(half), -1), self.weights, out=products).view(4, 4, *half, channels)
        if self.bias is not None:
            m[1, 1].add_(self.bias)  # of which every output of the tile has one
        tiles = y.view(batch, half[1], 2, half[2], 2, channels).permute(4, 2, 0, 1, 3, 5)
        _outputs(m, m[0], m[1])
        for column, outputs in zip(m[:2], tiles, strict=True):
            _outputs(column, outputs[0], outputs[1])


def _weights(g: Tensor, result: Tensor) -> Tensor:
    """G g along the first axis, from 3 to 4."""
    result[0].copy_(g[0])
    torch.add(g[0], g[2], out=result[1]).add_(g[1]).div_(2)
    torch.sub(result[1], g[1], out=result[2])
    result[3].copy_(g[2])
    return result


def _inputs(d: list[Tensor], name: str) -> Tensor:
    """B' d of four tensors."""
    result = scratch.take(name, (4, *d[0].shape), d[0].dtype)
    torch.sub(d[0], d[2], out=result[0])
    torch.add(d[1], d[2], out=result[1])
    torch.sub(d[2], d[1], out=result[2])
    torch.sub(d[1], d[3], out=result[3])
    return result


def _outputs(m: Tensor, first: Tensor, second: Tensor) -> None:
    """A' m of four parts, whose second is lost."""
    torch.add(m[0], m[1].add_(m[2]), out=first)
    torch.sub(m[1].sub_(m[2], alpha=2), m[3], out=second)


def _borrow(x: Tensor, top: int, bottom: int) -> Tensor:
    """Rows `top` to `bottom` of x (B, H, W, C) with one more pixel on all sides, zero beyond the image."""
    batch, height, width, channels = x.shape
    padded = scratch.take("padded", (batch, bottom - top + 2, width + 2, channels), x.dtype)
    above, below = int(top > 0), int(bottom < height)
    padded[:, :, :: width + 1] = 0
    if not above:
        padded[:, 0] = 0
    if not below:
        padded[:, -1] = 0
    padded[:, 1 - above : bottom - top + 1 + below, 1:-1] = x[:, top - above : bottom + below]
    return padded
