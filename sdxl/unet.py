"""The UNet (SDXL paper, section 2.1): noisy latents, timestep, context and vector in; the prediction out.

Base, refiner and the 9-channel inpainting model are values of `UNetConfig`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import Block, UNetConfig
from .nn import Attention, Conv2d, KeysValues, Linear, ResBlock, Upsample, sinusoidal

Text = list[list[KeysValues]]
"""A context as the transformer blocks see it: an entry for each place of a spatial transformer."""


class Embed(nn.Module):
    """Two linear layers that bring a conditioning vector to the width of the embedding."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(in_dim, dim)
        self.fc2 = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x)))


class GEGLU(nn.Module):
    """The feed-forward layer of the transformer (Shazeer 2020, arXiv 2002.05202), with the exact (erf) GELU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = Linear(dim, 8 * dim)
        self.out = Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.proj(x).chunk(2, dim=-1)
        return self.out(h * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward; each behind a layer norm and added.

    `text` is what `cross_attn.keys_values` made of the context. It may have fewer rows than x (B, L, C): the first rows
    of x then have a context of zeros, whose values are zeros too, since their layer has no bias.
    """

    def __init__(self, dim: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = Attention(dim, dim, heads, bias=False)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = Attention(dim, context_dim, heads, bias=False)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = GEGLU(dim)

    def forward(self, x: Tensor, text: KeysValues) -> Tensor:
        x = x + self.self_attn(self.norm1(x))
        told = x[len(x) - len(text[0]) :]
        told = told + self.cross_attn.attend(self.norm2(told), text)
        if len(told) < len(x):
            untold = x[: len(x) - len(told)] + self.cross_attn.out.bias
            told = torch.cat([untold, told])
        return told + self.ff(self.norm3(told))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, depth: int, heads: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_groups, channels, eps=1e-6)  # not the 1e-5 of the residual blocks
        self.proj_in = Linear(channels, channels)
        self.blocks = nn.ModuleList(TransformerBlock(channels, config.context_dim, heads) for _ in range(depth))
        self.proj_out = Linear(channels, channels)

    def read(self, context: Tensor) -> list[KeysValues]:
        """What each block is to know of the text."""
        blocks = cast(list[TransformerBlock], self.blocks)
        return [block.cross_attn.keys_values(context) for block in blocks]

    def forward(self, x: Tensor, text: list[KeysValues]) -> Tensor:
        h = self.enter(x)
        for block, keys_values in zip(self.blocks, text, strict=True):
            h = block(h, keys_values)
        return self.leave(h, x)

    def enter(self, x: Tensor) -> Tensor:
        """From the feature map to the tokens of the first block."""
        h: Tensor = self.proj_in(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        return h

    def leave(self, h: Tensor, x: Tensor) -> Tensor:
        """From the tokens of the last block back to the feature map."""
        return x + rearrange(self.proj_out(h), "b (h w) c -> b c h w", h=x.shape[2])


class NoTransformer(nn.Module):
    """What stands where a level has no attention."""

    def read(self, context: Tensor) -> list[KeysValues]:
        return []

    def forward(self, x: Tensor, text: list[KeysValues]) -> Tensor:
        return x


class Downsample(nn.Module):
    """Half the height and width, by a convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Level(nn.Module):
    """The blocks of one resolution: pairs of a residual block and a spatial transformer."""

    def __init__(self, blocks: list[Block], config: UNetConfig) -> None:
        super().__init__()
        self.res = nn.ModuleList(
            ResBlock(b.in_channels, b.out_channels, config.norm_groups, config.norm_eps, config.emb_dim) for b in blocks
        )
        self.attn = nn.ModuleList(
            SpatialTransformer(b.out_channels, b.depth, b.heads, config) if b.depth else NoTransformer() for b in blocks
        )


class DownLevel(Level):
    """A level of the contracting path."""

    def __init__(self, blocks: list[Block], config: UNetConfig, last: bool) -> None:
        super().__init__(blocks, config)
        self.downsample = None if last else Downsample(blocks[-1].out_channels)

    def forward(self, x: Tensor, emb: Tensor, text: Iterator[list[KeysValues]], skips: list[Tensor]) -> Tensor:
        for res, attn in zip(self.res, self.attn, strict=True):
            x = attn(res(x, emb), next(text))
            skips.append(x)
        if self.downsample is not None:
            x = self.downsample(x)
            skips.append(x)
        return x


class UpLevel(Level):
    """A level of the expanding path."""

    def __init__(self, blocks: list[Block], config: UNetConfig, last: bool) -> None:
        super().__init__(blocks, config)
        self.upsample = None if last else Upsample(blocks[-1].out_channels)

    def forward(self, x: Tensor, emb: Tensor, text: Iterator[list[KeysValues]], skips: list[Tensor]) -> Tensor:
        for res, attn in zip(self.res, self.attn, strict=True):
            x = attn(res(torch.cat([x, skips.pop()], dim=1), emb), next(text))
        if self.upsample is not None:  # to the size of the next skip: it may be odd, so not simply twice ours
            x = self.upsample(x, skips[-1].shape[2:])
        return x


class UNet(nn.Module):
    """The denoising network."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, last = config.channels, len(config.channels) - 1
        self.time_embed = Embed(channels[0], config.emb_dim)
        self.vector_embed = Embed(config.vector_dim, config.emb_dim)
        self.conv_in = Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.down = nn.ModuleList(DownLevel(b, config, i == last) for i, b in enumerate(config.down_blocks()))
        middle = Block(channels[-1], channels[-1], config.mid, config.heads[-1])
        self.mid = Level([middle], config)
        self.mid.res.append(ResBlock(channels[-1], channels[-1], config.norm_groups, config.norm_eps, config.emb_dim))
        self.up = nn.ModuleList(UpLevel(b, config, i == last) for i, b in enumerate(config.up_blocks()))
        self.norm_out = nn.GroupNorm(config.norm_groups, channels[0], config.norm_eps)
        self.conv_out = Conv2d(channels[0], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, context: Tensor, vector: Tensor) -> Tensor:
        """Predict the noise (or v) in x.

        x (B, in_channels, H, W) scaled noisy latents; t (B,) timesteps 0..999, fractions allowed;
        context (B, 77, context_dim); vector (B, vector_dim). Returns (B, out_channels, H, W).
        """
        return self.denoise(x, self.embed(t, vector), self.read(context))

    def embed(self, t: Tensor, vector: Tensor) -> Tensor:
        """The embedding that every residual block is told, with its SiLU: timesteps (B,) and vector (B, vector_dim) to
        (B, emb_dim).
        """
        time = sinusoidal(t, self.config.channels[0]).to(vector.dtype)
        return F.silu(self.time_embed(time) + self.vector_embed(vector))

    def read(self, context: Tensor) -> Text:
        """What the blocks are told of a context (B, 77, context_dim), in the order in which they run."""
        levels = cast(list[Level], [*self.down, self.mid, *self.up])
        places = cast(list[SpatialTransformer | NoTransformer], [attn for level in levels for attn in level.attn])
        return [place.read(context) for place in places]

    def denoise(self, x: Tensor, emb: Tensor, text: Text) -> Tensor:
        """The network behind `forward`, with what `embed` and `read` made; see `TransformerBlock` for a `text` of fewer
        rows than x.
        """
        said = iter(text)
        x = self.conv_in(x)
        skips = [x]
        for level in self.down:
            x = level(x, emb, said, skips)
        x = self.mid.attn[0](self.mid.res[0](x, emb), next(said))
        x = self.mid.res[1](x, emb)
        for level in self.up:
            x = level(x, emb, said, skips)
        return self.finish(x)

    def finish(self, x: Tensor) -> Tensor:
        """From the last feature map to the output."""
        return self.conv_out(F.silu(self.norm_out(x)))
