"""ControlNet (Zhang et al. 2023, arXiv 2302.05543): a second contracting half that sees a control image, and whose
features are added to the UNet's skip connections.

A union (github.com/xinsir6/ControlNetPlus) is one with several types of control images, which it may see at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .control_config import ControlNetConfig
from .layers import Conv2d, Embedding, Linear, sinusoidal
from .unet import Contracting, Embed, Memory, Residuals


class HintEncoder(nn.Module):
    """Convolutions that bring a control image (B, 3, H, W) in 0..1 to the UNet's first feature map (B, C, h, w)."""

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        layers = [Conv2d(3, widths[0], 3, padding=1)]
        for width, wider in pairwise(widths):
            layers += [Conv2d(width, width, 3, padding=1), Conv2d(width, wider, 3, stride=2, padding=1)]
        self.convs = nn.ModuleList([*layers, Conv2d(widths[-1], channels, 3, padding=1)])

    def forward(self, x: Tensor) -> Tensor:
        *convs, last = self.convs
        for conv in convs:
            x = F.silu(conv(x))
        return last(x)


class FuserAttention(nn.Module):
    """The attention of a token to itself: its own value, whatever the queries and keys."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.v = Linear(dim, dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.v(x))


class FuserBlock(nn.Module):
    """A transformer block over one token, (B, C). The authors' layer attends along the batch, so that with one control
    image for all its rows each attends to itself; with several, images of a batch would leak into each other.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = FuserAttention(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.up = Linear(dim, 4 * dim)
        self.down = Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        h = self.up(self.norm2(x))
        return x + self.down(h * torch.sigmoid(1.702 * h))  # the quick GELU


class Union(nn.Module):
    """What a union has beside a ControlNet: embeddings of the types, and the blocks that look at the whole image."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        channels = config.trunk.channels[0]
        self.task_embed = Embedding(config.types, channels)
        self.blocks = nn.ModuleList(FuserBlock(channels) for _ in range(config.fusers))
        self.proj = Linear(channels, channels)
        self.type_embed = Embed(config.types * config.type_dim, config.trunk.emb_dim)

    def fuse(self, hint: Tensor, type: int, weight: float) -> Tensor:
        """What a hint (B, C, h, w) of a type adds to the first feature map, at a weight of 0 to 1."""
        features = hint.mean(dim=(2, 3)) + self.task_embed.weight[type].to(hint.dtype)
        features = features * weight
        for block in self.blocks:
            features = block(features)
        shift: Tensor = self.proj(features) * weight
        return hint * weight + shift[:, :, None, None]


class ControlNet(Contracting):
    """The contracting half of a UNet with an encoder of control images, and a 1x1 convolution behind each feature
    map.
    """

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__(config.trunk)
        self.control_config = config
        channels = config.trunk.channels
        self.hint = HintEncoder(config.hint, channels[0])
        self.zero = nn.ModuleList(Conv2d(width, width, 1) for width in config.trunk.skip_channels())
        self.zero_mid = Conv2d(channels[-1], channels[-1], 1)
        self.union = Union(config) if config.types else None

    def embed(self, t: Tensor, vector: Tensor, scale: Tensor | None = None) -> Tensor:
        """As `Contracting.embed`. A union's vector has its types' embedding behind it: see `with_types`."""
        if self.union is None:
            return super().embed(t, vector)
        own, types = vector.tensor_split([self.config.vector_dim], dim=1)
        time = sinusoidal(t, self.config.channels[0]).to(vector.dtype)
        return F.silu(self.time_embed(time) + self.vector_embed(own) + self.union.type_embed(types))

    def with_types(self, vector: Tensor, types: Sequence[int]) -> Tensor:
        """The vector (B, V) of a union with these types of control images at once."""
        config = self.control_config
        flags = torch.zeros(config.types, dtype=torch.float32, device=vector.device)
        flags[list(types)] = 1
        embedded = sinusoidal(flags, config.type_dim).flatten().to(vector.dtype)
        return torch.cat([vector, embedded.expand(len(vector), -1)], dim=1)

    def encode(self, image: Tensor, type: int | None = None, weight: float = 1.0) -> Tensor:
        """What a control image (B, 3, H, W) in 0..1 adds to the first feature map (B, C, h, w), for all steps. A union
        needs the number of its `type`; where it sees several at once, each has a `weight` of 0 to 1.
        """
        hint: Tensor = self.hint(image.flip(1) if self.control_config.is_bgr else image)
        if self.union is None:
            return hint
        assert type is not None
        return self.union.fuse(hint, type, weight)

    def forward(self, x: Tensor, t: Tensor, context: Tensor, vector: Tensor, image: Tensor) -> Residuals:
        """The residuals for scaled noisy latents x (B, in_channels, h, w) and a control image; the rest as a UNet's."""
        memories = self.context_kv(context.expand(len(x), -1, -1))
        return self.predict(x, self.embed(t.reshape(-1), vector), memories, self.encode(image))

    def predict(self, x: Tensor, emb: Tensor, memories: Sequence[Memory], hint: Tensor) -> Residuals:
        """What is behind `forward`, with the results of `embed`, `context_kv` and `encode`."""
        x, skips = self.contract(x, emb, iter(memories), Residuals(path={0: hint}))
        return Residuals([zero(skip) for zero, skip in zip(self.zero, skips, strict=True)], self.zero_mid(x))
