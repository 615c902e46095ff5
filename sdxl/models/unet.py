"""The UNet (SDXL paper, section 2.1): noisy latents, timestep, context and vector in; the prediction out.

Base, refiner and the 9-channel inpainting model are values of `UNetConfig`. The contracting half is a module of its
own, since a ControlNet is one too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .layers import (
    Attention,
    Conv2d,
    Linear,
    ResBlock,
    Shifted,
    Shifts,
    Source,
    Upsample,
    shifted,
    sinusoidal,
    sinusoidal_scale,
    unshared,
)
from .unet_config import Block, UNetConfig


@dataclass(frozen=True)
class Memory:
    """What a transformer block attends to.

    `cross` are the sources of its cross-attention, such as the text's, at least one. Rows of x in front of the first
    source's attend to nothing: a context of zeros has values of zeros, since their layer has no bias. `own` gives the
    sources of its self-attention, from that layer and its input (B, L, C); None means the input itself. `shifts` change
    the inputs of `self_attn.q`, `self_attn.k`, `self_attn.v` and `cross_attn.q`.
    """

    cross: tuple[Source, ...]
    own: Callable[[Attention | Shifted, Tensor], Sequence[Source]] | None = None
    shifts: Shifts = field(default_factory=dict)


@dataclass(frozen=True)
class Residuals:
    """What a control adds inside the UNet, beside its own feature maps.

    `skips` are added to all skip connections when the contracting half is done, in their order; `mid` to the output of
    the middle block. `path[n]` is added to the feature map that becomes skip n, and so to all that follows.
    """

    skips: Sequence[Tensor] = ()
    mid: Tensor | None = None
    path: Mapping[int, Tensor] = field(default_factory=dict)


NO_RESIDUALS = Residuals()


def total(residuals: Sequence[Residuals]) -> Residuals:
    """The sum of what several controls add."""
    if len(residuals) == 1:
        return residuals[0]
    skips = [each.skips for each in residuals if each.skips]
    mids = [each.mid for each in residuals if each.mid is not None]
    path: dict[int, list[Tensor]] = {}
    for each in residuals:
        for place, feature in each.path.items():
            path.setdefault(place, []).append(feature)
    return Residuals(
        [_sum(same) for same in zip(*skips, strict=True)],
        _sum(mids) if mids else None,
        {place: _sum(features) for place, features in path.items()},
    )


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, tensors)


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
        return self.out(F.gelu(gate).mul_(h))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to a memory, feed-forward; each behind a layer norm and added. x (B, L, C)."""

    def __init__(self, dim: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = Attention(dim, dim, heads, bias=False)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = Attention(dim, context_dim, heads, bias=False)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = GEGLU(dim)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        own = shifted(self.self_attn, "self_attn", memory.shifts)
        cross = shifted(self.cross_attn, "cross_attn", memory.shifts)
        h = self.norm1(x)
        h = own(h) if memory.own is None else own.attend(h, memory.own(own, h))
        x = unshared(h, self.self_attn).add_(x)
        first = min(source.first for source in memory.cross)
        attending = x[first:]
        h = cross.attend(self.norm2(attending), memory.cross, first)
        attending = unshared(h, self.cross_attn).add_(attending)
        if first:  # to attend to zeros is to add the bias alone
            attending = torch.cat([x[:first] + self.cross_attn.out.bias, attending])
        return unshared(self.ff(self.norm3(attending)), self.ff).add_(attending)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, depth: int, heads: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_groups, channels, eps=1e-6)  # not the 1e-5 of the residual blocks
        self.proj_in = Linear(channels, channels)
        self.blocks = nn.ModuleList(TransformerBlock(channels, config.context_dim, heads) for _ in range(depth))
        self.proj_out = Linear(channels, channels)

    def forward(self, x: Tensor, memories: Iterator[Memory]) -> Tensor:
        """`memories` gives each block its own."""
        h = self.to_tokens(x)
        for block in self.blocks:
            h = block(h, next(memories))
        return self.to_map(h, x)

    def to_tokens(self, x: Tensor) -> Tensor:
        """From the feature map to the tokens of the first block."""
        return self.proj_in(rearrange(self.norm(x), "b c h w -> b (h w) c"))

    def to_map(self, h: Tensor, x: Tensor) -> Tensor:
        """From the tokens of the last block back to the feature map."""
        return x + rearrange(self.proj_out(h), "b (h w) c -> b c h w", h=x.shape[2])


class NoTransformer(nn.Module):
    """The identity, where a level has no attention."""

    blocks: tuple[TransformerBlock, ...] = ()

    def forward(self, x: Tensor, memories: Iterator[Memory]) -> Tensor:
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
            NoTransformer() if b.depth is None else SpatialTransformer(b.out_channels, b.depth, b.heads, config)
            for b in blocks
        )


class DownLevel(Level):
    """A level of the contracting half."""

    def __init__(self, blocks: list[Block], config: UNetConfig, last: bool) -> None:
        super().__init__(blocks, config)
        self.downsample = None if last else Downsample(blocks[-1].out_channels)

    def forward(
        self, x: Tensor, emb: Tensor, memories: Iterator[Memory], skips: list[Tensor], path: Mapping[int, Tensor]
    ) -> Tensor:
        """Appends to `skips`."""
        for res, attn in zip(self.res, self.attn, strict=True):
            x = _added(attn(res(x, emb), memories), path.get(len(skips)))
            skips.append(x)
        if self.downsample is not None:
            x = _added(self.downsample(x), path.get(len(skips)))
            skips.append(x)
        return x


class UpLevel(Level):
    """A level of the expanding half."""

    def __init__(self, blocks: list[Block], config: UNetConfig, last: bool) -> None:
        super().__init__(blocks, config)
        self.upsample = None if last else Upsample(blocks[-1].out_channels)

    def forward(self, x: Tensor, emb: Tensor, memories: Iterator[Memory], skips: list[Tensor]) -> Tensor:
        """Takes its skips from the end of `skips`."""
        for res, attn in zip(self.res, self.attn, strict=True):
            x = attn(res(torch.cat([x, skips.pop()], dim=1), emb), memories)
        if self.upsample is not None:  # to the size of the next skip: it may be odd, so not simply twice ours
            x = self.upsample(x, skips[-1].shape[2:])
        return x


def _added(x: Tensor, residual: Tensor | None) -> Tensor:
    return x if residual is None else x + residual


class Contracting(nn.Module):
    """The contracting half of the UNet with the middle block, and the embeddings of time and vector."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, last = config.channels, len(config.channels) - 1
        self.time_embed = Embed(channels[0], config.emb_dim)
        self.vector_embed = Embed(config.vector_dim, config.emb_dim)
        self.guidance_embed: Linear | None = None
        if config.guidance_dim is not None:
            self.guidance_embed = Linear(config.guidance_dim, channels[0], bias=False)
        self.conv_in = Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.down = nn.ModuleList(DownLevel(b, config, i == last) for i, b in enumerate(config.down_blocks()))
        self.mid: Level | None = None
        if config.mid is not None:
            depth = None if config.mid == -1 else config.mid
            self.mid = Level([Block(channels[-1], channels[-1], depth, config.heads[-1])], config)
            if depth is not None:
                extra = ResBlock(channels[-1], channels[-1], config.norm_groups, config.norm_eps, config.emb_dim)
                self.mid.res.append(extra)

    def embed(self, t: Tensor, vector: Tensor, scale: Tensor | None = None) -> Tensor:
        """The embedding that every residual block adds, with its SiLU: timesteps (B,) and vector (B, vector_dim) to
        (B, emb_dim). A UNet with a `guidance_dim` takes the guidance scales (B,) too (LCM; Luo et al. 2023, arXiv
        2310.04378, section 4.2).
        """
        time = sinusoidal(t, self.config.channels[0]).to(vector.dtype)
        if self.guidance_embed is not None and scale is not None:
            time = time + self.guidance_embed(sinusoidal_scale(scale, self.config.guidance_dim or 0).to(vector.dtype))
        return F.silu(self.time_embed(time) + self.vector_embed(vector))

    def levels(self) -> list[Level]:
        """The levels in the order in which they run."""
        return cast("list[Level]", [*self.down, *([] if self.mid is None else [self.mid])])

    def context_kv(self, context: Tensor, first: int = 0) -> list[Memory]:
        """The memory of each transformer block in the order in which they run: keys and values of a context
        (R, L, context_dim) that the R rows of a batch from row `first` on attend to.
        """
        transformers = cast("list[SpatialTransformer]", [attn for level in self.levels() for attn in level.attn])
        blocks = cast("list[TransformerBlock]", [block for attn in transformers for block in attn.blocks])
        return [Memory((block.cross_attn.source(context, first),)) for block in blocks]

    def contract(
        self, x: Tensor, emb: Tensor, memories: Iterator[Memory], residuals: Residuals = NO_RESIDUALS
    ) -> tuple[Tensor, list[Tensor]]:
        """x (B, in_channels, H, W) to the output of the middle block, and the skip connections from the highest
        resolution to the lowest.
        """
        x = _added(self.conv_in(x), residuals.path.get(0))
        skips = [x]
        for level in self.down:
            x = level(x, emb, memories, skips, residuals.path)
        if self.mid is not None:
            x = self.mid.attn[0](self.mid.res[0](x, emb), memories)
            for res in self.mid.res[1:]:
                x = res(x, emb)
        if residuals.skips:
            skips = [skip + residual for skip, residual in zip(skips, residuals.skips, strict=True)]
        return _added(x, residuals.mid), skips


class UNet(Contracting):
    """The denoising network: the contracting half, the expanding half, and the head."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        channels, last = config.channels, len(config.channels) - 1
        self.up = nn.ModuleList(UpLevel(b, config, i == last) for i, b in enumerate(config.up_blocks()))
        self.norm_out = nn.GroupNorm(config.norm_groups, channels[0], config.norm_eps)
        self.conv_out = Conv2d(channels[0], config.out_channels, 3, padding=1)

    def levels(self) -> list[Level]:
        """The levels of both halves in the order in which they run."""
        return [*super().levels(), *cast("list[Level]", list(self.up))]

    def forward(self, x: Tensor, t: Tensor, context: Tensor, vector: Tensor, scale: Tensor | None = None) -> Tensor:
        """Predict the noise (or v) in x.

        x (B, in_channels, H, W) scaled noisy latents; t (B,) timesteps 0..999, fractions allowed; context
        (B, L, context_dim); vector (B, vector_dim); scale (B,) as in `embed`. Each of these may be one for all B.
        What is in another dtype than the network's layers is cast to that, and the output to the dtype of x. Returns
        (B, out_channels, H, W).
        """
        dtype = self.norm_out.weight.dtype
        emb = self.embed(t.reshape(-1), vector.to(dtype), scale)
        context = context.to(dtype).expand(len(x), -1, -1)  # rows without a source would attend to nothing
        output = self.predict(x.to(dtype), emb, self.context_kv(context))
        return output if x.dtype == dtype else output.to(x.dtype)

    def predict(
        self, x: Tensor, emb: Tensor, memories: Sequence[Memory], residuals: Residuals = NO_RESIDUALS
    ) -> Tensor:
        """The network behind `forward`, with the results of `embed` and `context_kv`, and what a control adds."""
        each = iter(memories)
        x, skips = self.contract(x, emb, each, residuals)
        for level in self.up:
            x = level(x, emb, each, skips)
        return self.head(x)

    def head(self, x: Tensor) -> Tensor:
        """From the last feature map to the output."""
        return self.conv_out(F.silu(unshared(self.norm_out(x), self.norm_out), inplace=True))
