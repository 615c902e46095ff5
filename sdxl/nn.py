"""The layers that the networks share. Shapes: B batch, L tokens, C channels, H and W height and width."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def sinusoidal(values: Tensor, dim: int) -> Tensor:
    """Embed numbers as `dim` cosines and sines, cosines first: (N,) -> (N, dim), float32.

    "Attention is all you need", section 3.5, with the frequencies 10000^(-i / (dim/2)).
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=values.device, dtype=torch.float32) * (-math.log(10000) / half))
    angles = values.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """Multi-head attention: q (B, L, C), k and v (B, M, C) -> (B, L, C)."""
    q, k, v = (rearrange(x, "b l (h d) -> b h l d", h=heads) for x in (q, k, v))
    x = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return rearrange(x, "b h l d -> b l (h d)")


class Attention(nn.Module):
    """Projections around `attention`; keys and values come from `context`, or from x where there is none."""

    def __init__(self, dim: int, context_dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim, bias=bias)
        self.k = nn.Linear(context_dim, dim, bias=bias)
        self.v = nn.Linear(context_dim, dim, bias=bias)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor | None = None, causal: bool = False) -> Tensor:
        source = x if context is None else context
        return self.out(attention(self.q(x), self.k(source), self.v(source), self.heads, causal))


class ResBlock(nn.Module):
    """Two norm-SiLU-convolution stages around the sum with the embedding; the UNet has one, the VAE has none."""

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, eps: float, emb_dim: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.emb = None if emb_dim is None else nn.Linear(emb_dim, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        if self.emb is not None and emb is not None:
            h = h + self.emb(F.silu(emb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.skip(x) + h


class Upsample(nn.Module):
    """Nearest-neighbour enlargement to (height, width), then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return self.conv(F.interpolate(x, size=(height, width), mode="nearest"))
