"""Tiled VAE: `VAE.decode` and `VAE.encode` in strips of rows. Images and latents are the same, memory is less.

A feature map is an iterator of strips, a few rows each, that a layer makes only when the next layer asks for them. Two
things reach beyond a strip: a convolution needs a row of each neighbour, a group norm the mean and variance of the
whole map. So only norms, and the sums that end residual blocks, hold a map, and they let go of it strip by strip.
Nothing is computed twice. The peak is the largest map, or the two of a residual block (both 1 kB per pixel at full size
in float32), and a few strips, where the whole computation holds several such maps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.layers import ResBlock, Upsample
from ..models.vae import VAE, Downsample, Level

ROWS = 8  # of latents in a strip: more of them take more memory, fewer more time


@torch.no_grad()
def decode_strips(vae: VAE, z: Tensor, rows: int = ROWS) -> Tensor:
    """`vae.decode(z)` in strips of `rows` rows of latents: scaled latents (B, 4, h, w) to images (B, 3, 8h, 8w).

    The middle, where attention looks at all of a map, is computed whole; maps are small there.
    """
    decoder = vae.decoder
    x = decoder.mid(decoder.conv_in(vae.post_quant_conv(vae.unscale(z))))
    strips: Iterable[Tensor] = torch.split(x, rows, dim=2)
    for level in cast(list[Level], decoder.up):
        strips = residuals(level, strips)
        if level.upsample is not None:
            strips = enlarge(level.upsample, strips)
    return torch.cat(list(convolve(decoder.conv_out, activate(decoder.norm_out, strips))), dim=2)


@torch.no_grad()
def encode_strips(vae: VAE, x: Tensor, noise: Tensor | None = None, rows: int = ROWS) -> Tensor:
    """`vae.encode(x, noise)` in strips of `rows` rows of latents: images (B, 3, 8h, 8w) to latents (B, 4, h, w)."""
    encoder = vae.encoder
    strips: Iterable[Tensor] = convolve(encoder.conv_in, torch.split(x, rows * vae.config.factor, dim=2))
    for level in cast(list[Level], encoder.down):
        strips = residuals(level, strips)
        if level.downsample is not None:
            strips = halve(level.downsample, strips)
    h = encoder.mid(torch.cat(list(strips), dim=2))
    return vae.sample(encoder.head(h), noise)


def residuals(level: Level, strips: Iterable[Tensor]) -> Iterable[Tensor]:
    """The residual blocks of a level, one behind the other."""
    for block in cast(list[ResBlock], level.res):
        strips = residual(block, strips)
    return strips


def residual(block: ResBlock, strips: Iterable[Tensor]) -> Iterator[Tensor]:
    """A residual block. The skip takes the place of the input strip by strip, so that two maps are held, not three."""
    skips: deque[Tensor] = deque()
    h = convolve(block.conv1, activate(block.norm1, strips, lambda x: skips.append(block.skip(x))))
    for strip in convolve(block.conv2, activate(block.norm2, h)):
        yield strip.add_(skips.popleft())


def activate(
    norm: nn.GroupNorm, strips: Iterable[Tensor], leave: Callable[[Tensor], None] = lambda x: None
) -> Iterator[Tensor]:
    """SiLU of the group norm over all strips together; each strip is handed to `leave` as it is let go."""
    kept: deque[Tensor] = deque()
    parts = []
    for x in strips:
        kept.append(x)
        parts.append(statistics(x))
    scale, shift = affine(norm, torch.stack(parts))
    while kept:
        x = kept.popleft()
        leave(x)
        yield F.silu(torch.addcmul(shift, x, scale).to(x.dtype), inplace=True)


def statistics(x: Tensor) -> Tensor:
    """Rows, mean and variance of each channel of a strip: (3, B, C), at least in float32."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = x.mean((2, 3), keepdim=True)
    variance = (x - mean).square_().mean((2, 3))  # torch.var_mean takes more than twice as long on a CPU
    mean = mean[:, :, 0, 0]
    return torch.stack([torch.full_like(mean, x.shape[2]), mean, variance])


def affine(norm: nn.GroupNorm, parts: Tensor) -> tuple[Tensor, Tensor]:
    """What a group norm multiplies with and adds, both (B, C, 1, 1), by the statistics of N strips, (N, 3, B, C)."""
    rows, means, variances = torch.unflatten(parts, 3, (norm.num_groups, -1)).unbind(1)
    share = rows / rows.sum(0)
    mean = (share * means).sum(0).mean(2, keepdim=True)
    # the variance within the channels of the strips, and between them
    variance = (share * (variances + (means - mean) ** 2)).sum(0).mean(2, keepdim=True)
    scale = norm.weight.view(norm.num_groups, -1) * torch.rsqrt(variance + norm.eps)
    shift = norm.bias.view(norm.num_groups, -1) - mean * scale
    return scale.flatten(1)[:, :, None, None], shift.flatten(1)[:, :, None, None]


def convolve(conv: nn.Module, strips: Iterable[Tensor]) -> Iterator[Tensor]:
    """A 3x3 convolution: each strip borrows the rows next to it, which are zero above and below the image."""
    strips = iter(strips)
    x = next(strips)
    above = torch.zeros_like(x[:, :, :1])
    for below in chain(strips, [torch.zeros_like(above)]):
        padded = [torch.cat([above, x, below[:, :, :1]], dim=2)]
        above, x = x[:, :, -1:].clone(), below  # a view would hold the whole strip
        yield conv(padded.pop())[:, :, 1:-1]  # the layer pads with zeros on all sides; nothing here holds its input


def enlarge(upsample: Upsample, strips: Iterable[Tensor]) -> Iterator[Tensor]:
    """`Upsample` to twice the height and width."""
    return convolve(upsample.conv, (F.interpolate(x, scale_factor=2.0, mode="nearest") for x in strips))


def halve(downsample: Downsample, strips: Iterable[Tensor]) -> Iterator[Tensor]:
    """`Downsample`: each strip, of an even number of rows, borrows the row below."""
    strips = iter(strips)
    x = next(strips)
    for below in chain(strips, [torch.zeros_like(x[:, :, :1])]):
        padded = [F.pad(torch.cat([x, below[:, :, :1]], dim=2), (0, 1))]
        x = below
        yield downsample.conv(padded.pop())
