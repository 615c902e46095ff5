"""The layers that the networks share. Shapes: B batch, L tokens, C channels, H and W height and width."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


def sinusoidal_scale(scale: Tensor, dim: int) -> Tensor:
    """Embed guidance scales as LCM does: (N,) -> (N, dim), float32. Sines come first, and the last frequency is
    1 / 10000: 10000^(-i / (dim/2 - 1)).
    """
    half = dim // 2
    frequencies = torch.exp(
        torch.arange(half, device=scale.device, dtype=torch.float32) * (-math.log(10000) / (half - 1))
    )
    angles = 1000 * (scale.float()[:, None] - 1) * frequencies
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, dim % 2))


class Linear(nn.Linear):
    """A linear layer that is not initialised on the meta device."""

    def reset_parameters(self) -> None:
        """Nothing on the meta device, where weights that are to be loaded have their shapes: torch takes long there."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Conv2d(nn.Conv2d):
    """A convolution that is not initialised on the meta device."""

    def reset_parameters(self) -> None:
        """Nothing on the meta device."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Embedding(nn.Embedding):
    """A table of vectors that is not initialised on the meta device."""

    def reset_parameters(self) -> None:
        """Nothing on the meta device: torch would import its compiler for it, which takes a second."""
        if not self.weight.is_meta:
            super().reset_parameters()


def unshared(x: Tensor, layer: nn.Module) -> Tensor:
    """The output of a layer, to be changed in place: a copy where a hook may have kept it, or has wrapped it for the
    backward pass. The hook may be the layer's, that of its last layer `out`, or of any in a layer of one's own.
    """
    seen = _EVERY._global_forward_hooks or _EVERY._global_backward_hooks or _EVERY._global_backward_pre_hooks
    last = layer._modules.get("out")
    for each in (layer, last) if last is not None else layer.modules() if layer._modules else (layer,):
        own = each.__dict__
        seen = seen or own["_forward_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    return x.clone() if seen else x


_EVERY: Any = nn.modules.module  # it has the hooks of all modules


class Learned(nn.Module):
    """A learned tensor that is used as it is. It is a layer, so that it is brought to its place as others are."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))

    def forward(self) -> Tensor:
        return self.weight


MOST_SCORES = {"mps": 2**31}
"""By the type of a device, the bytes of the scores of queries and keys that it can hold at once. Apple's GPU computes
all of them at once. Beyond 4 GB it ends the process, or gives wrong numbers (pytorch/pytorch#149261 and #179352).
"""


def dot_product(q: Tensor, keys: Tensor, values: Tensor, causal: bool = False) -> Tensor:
    """Attention of queries (R, heads, L, D) to keys and values (R, heads, M, D), in parts where its scores are many."""
    most = MOST_SCORES.get(q.device.type)
    if most is None or causal:
        return F.scaled_dot_product_attention(q, keys, values, is_causal=causal)
    count = max(1, most // (q.shape[0] * q.shape[1] * keys.shape[2] * q.itemsize))
    if count >= q.shape[2]:
        return F.scaled_dot_product_attention(q, keys, values)
    return torch.cat([F.scaled_dot_product_attention(part, keys, values) for part in q.split(count, dim=2)], dim=2)


@dataclass(frozen=True)
class Source:
    """One thing that an attention layer attends to, for some rows of a batch.

    `keys` and `values` are (R, heads, M, D); without keys, every token takes the value at its own place (M = L). They
    belong to the R rows of x from row `first` on. `weight` multiplies what comes of it: a number, or a tensor that goes
    with (R, heads, L, D), such as a mask (R, 1, L, 1).
    """

    keys: Tensor | None
    values: Tensor
    first: int = 0
    weight: float | Tensor = 1.0

    def attend(self, q: Tensor, causal: bool = False) -> Tensor:
        """What the queries of its rows (R, heads, L, D) find in it, of the same shape."""
        h = self.values
        if self.keys is not None:
            h = dot_product(q, self.keys, self.values, causal)
        return h if isinstance(self.weight, float) and self.weight == 1 else h * self.weight


class Attention(nn.Module):
    """Multi-head attention around SDPA. x (B, L, C), context (B, M, context_dim)."""

    def __init__(self, dim: int, context_dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q = Linear(dim, dim, bias=bias)
        self.k = Linear(context_dim, dim, bias=bias)
        self.v = Linear(context_dim, dim, bias=bias)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """Self-attention."""
        return self.attend(x, [self.source(x)], causal=causal)

    def source(self, context: Tensor, first: int = 0, values_of: Tensor | None = None) -> Source:
        """Keys and values of a context of the rows from `first` on: they serve for as long as it stays the same. The
        values may be those of another context.
        """
        values = self.v(context if values_of is None else values_of)
        return Source(split_heads(self.k(context), self.heads), split_heads(values, self.heads), first)

    def attend(self, x: Tensor, sources: Sequence[Source], first: int = 0, causal: bool = False) -> Tensor:
        """The sum of the attentions of x to its sources, through the output projection. x is the part of a batch from
        its row `first` on.
        """
        return self.out(attend(split_heads(self.q(x), self.heads), sources, first, causal))


Shifts = Mapping[str, Sequence[Callable[[Tensor], Tensor]]]
"""Changes of the inputs of projections, one after the other, by the name of the projection in a transformer block."""


@dataclass(frozen=True)
class Shifted:
    """An attention layer, `name` in its block, whose queries, keys and values are made of changed inputs."""

    layer: Attention
    name: str
    shifts: Shifts

    def __call__(self, x: Tensor) -> Tensor:
        """Self-attention."""
        return self.attend(x, [self.source(x)])

    def source(self, context: Tensor, first: int = 0) -> Source:
        """As `Attention.source`."""
        return self.layer.source(self._input("k", context), first, self._input("v", context))

    def attend(self, x: Tensor, sources: Sequence[Source], first: int = 0) -> Tensor:
        """As `Attention.attend`."""
        return self.layer.attend(self._input("q", x), sources, first)

    def _input(self, projection: str, x: Tensor) -> Tensor:
        for shift in self.shifts.get(f"{self.name}.{projection}", ()):
            x = shift(x)
        return x


def shifted(layer: Attention, name: str, shifts: Shifts) -> Attention | Shifted:
    """An attention layer whose inputs are changed; itself where nothing changes them."""
    return Shifted(layer, name, shifts) if shifts else layer


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, C) to (B, heads, L, D)."""
    return rearrange(x, "b l (h d) -> b h l d", h=heads)


def attend(q: Tensor, sources: Sequence[Source], first: int = 0, causal: bool = False) -> Tensor:
    """The sum of the attentions of queries (B, heads, L, D) to sources, as tokens (B, L, C)."""
    total = _side_by_side(q, sources, first, causal)
    for source in () if total is not None else sources:
        start, count = source.first - first, len(source.values)
        h = source.attend(q[start : start + count], causal)
        if count < len(q):  # the other rows get nothing of it
            h = F.pad(h, (0, 0, 0, 0, 0, 0, start, len(q) - start - count))
        total = h if total is None else total + h
    return rearrange(torch.zeros_like(q) if total is None else total, "b h l d -> b l (h d)")


def _side_by_side(q: Tensor, sources: Sequence[Source], first: int, causal: bool) -> Tensor | None:
    """The attentions to several sources that have rows of their own, in their order; None for others."""
    if len(sources) < 2:
        return None
    parts, at = [], 0
    for source in sources:
        start, stop = source.first - first, source.first - first + len(source.values)
        if start < at:
            return None
        parts += [torch.zeros_like(q[at:start])] if start > at else []
        parts.append(source.attend(q[start:stop], causal))
        at = stop
    return torch.cat([*parts, torch.zeros_like(q[at:])] if at < len(q) else parts)


class ResBlock(nn.Module):
    """Norm, SiLU and convolution, twice, around the sum with the embedding; the UNet has one, the VAE has none.

    `emb` (B, emb_dim) has passed its SiLU.
    """

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, eps: float, emb_dim: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.emb = None if emb_dim is None else Linear(emb_dim, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Identity() if in_channels == out_channels else Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        # in place: new maps cost a CPU as much as some layers
        h = self.conv1(F.silu(unshared(self.norm1(x), self.norm1), inplace=True))
        if self.emb is not None and emb is not None:
            h = unshared(h, self.conv1).add_(self.emb(emb)[:, :, None, None])
        h = self.conv2(F.silu(unshared(self.norm2(h), self.norm2), inplace=True))
        return unshared(h, self.conv2).add_(self.skip(x))


class Upsample(nn.Module):
    """Nearest-neighbour enlargement to `size`, (height, width), or to twice the input's, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        height, width = size or (2 * x.shape[2], 2 * x.shape[3])
        return self.conv(F.interpolate(x, size=(height, width), mode="nearest"))
