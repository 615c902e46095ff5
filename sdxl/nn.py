"""The layers that the networks share. Shapes: B batch, L tokens, C channels, H and W height and width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .cast import cast
from .errors import ArgumentError
from .scratch import scratch


def sinusoidal(values: Tensor, dim: int) -> Tensor:
    """Embed numbers as `dim` cosines and sines, cosines first: (N,) -> (N, dim), float32.

    "Attention is all you need", section 3.5, with the frequencies 10000^(-i / (dim/2)).
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=values.device, dtype=torch.float32) * (-math.log(10000) / half))
    angles = values.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def fetch(weight: Tensor, held: torch.dtype | None, x: Tensor) -> Tensor:
    """A weight where x is and in its dtype, rounded to `held` before, as if it had been kept in that. On a CPU it is
    valid until the next call, unless gradients are recorded.
    """
    if weight.device.type == x.device.type == "cpu" and not torch.is_grad_enabled():
        kept = weight.dtype == x.dtype and held in (None, x.dtype)
        return weight if kept else cast(weight, scratch.take("weight", weight.shape, x.dtype), held)
    return weight.to(held or weight.dtype).to(x.device, x.dtype, non_blocking=True)


class Sealed(nn.Module):
    """A layer whose weights lie in a form of their own: for a CPU, or in 8 bits. What would read or change them, and
    silently miss most of a network, is an `ArgumentError`.
    """

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise ArgumentError(
            "the weights are laid out for a CPU or in 8 bits, where they cannot be read, changed, copied or moved, and "
            "no gradients pass; load the model with offload block to do so"
        )

    _save_to_state_dict = _load_from_state_dict = _apply = __deepcopy__ = _refuse

    def checked(self, x: Tensor) -> Tensor:
        """x, unless gradients are to be recorded."""
        if x.requires_grad and torch.is_grad_enabled():
            self._refuse()
        return x


class Linear(nn.Linear):
    """A linear layer that computes where x is and in its dtype, whatever its weights are stored in."""

    held: torch.dtype | None = None  # see `fetch`

    def reset_parameters(self) -> None:
        """Nothing on the meta device, where weights that are to be loaded have their shapes, and torch takes long."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, fetch(self.weight, self.held, x), self.bias)


class Conv2d(nn.Conv2d):
    """A convolution that computes where x is and in its dtype, whatever its weights are stored in."""

    held: torch.dtype | None = None  # see `fetch`

    def reset_parameters(self) -> None:
        """Nothing on the meta device."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, fetch(self.weight, self.held, x), self.bias)


class Embedding(nn.Embedding):
    """A table of vectors."""

    def reset_parameters(self) -> None:
        """Nothing on the meta device: torch would import its compiler for it, which takes a second."""
        if not self.weight.is_meta:
            super().reset_parameters()


KeysValues = tuple[Tensor, Tensor]
"""What an attention layer looks at: two tensors (B, heads, M, D)."""


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
        return self.attend(x, self.keys_values(x), causal)

    def keys_values(self, context: Tensor) -> KeysValues:
        """Keys and values of a context: they can be used again for as long as it stays the same."""
        return self._split(self.k(context)), self._split(self.v(context))

    def attend(self, x: Tensor, keys_values: KeysValues, causal: bool = False) -> Tensor:
        """Attention of x to what `keys_values` made."""
        h = F.scaled_dot_product_attention(self._split(self.q(x)), *keys_values, is_causal=causal)
        return self.out(rearrange(h, "b h l d -> b l (h d)"))

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b l (h d) -> b h l d", h=self.heads)


class ResBlock(nn.Module):
    """Two norm-SiLU-convolution stages around the sum with the embedding; the UNet has one, the VAE has none.

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
        h = self.conv1(F.silu(self.norm1(x)))
        if self.emb is not None and emb is not None:
            h = h + self.emb(emb)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.skip(x) + h


class Upsample(nn.Module):
    """Nearest-neighbour enlargement to `size`, (height, width), or to twice of them, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        height, width = size or (2 * x.shape[2], 2 * x.shape[3])
        return self.conv(F.interpolate(x, size=(height, width), mode="nearest"))
