"""IP-Adapter (Ye et al. 2023, arXiv 2308.06721): an encoded image as tokens, and keys and values of these for every
cross-attention of a UNet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Learned, Linear, Source, attend, split_heads
from .vision_config import HEAD_DIM, IPAdapterConfig


class ImageProjection(nn.Module):
    """The plain projection: an embedding (B, image_dim) to (B, tokens, context_dim)."""

    def __init__(self, config: IPAdapterConfig) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.proj = Linear(config.image_dim, config.tokens * config.context_dim)
        self.norm = nn.LayerNorm(config.context_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.norm(self.proj(embedding).unflatten(1, (self.tokens, -1)))


class ResamplerLayer(nn.Module):
    """Latents attend to the image's tokens and to themselves, then a feed-forward layer; both added."""

    def __init__(self, config: IPAdapterConfig) -> None:
        super().__init__()
        dim, self.heads = config.inner_dim, config.heads_dim // HEAD_DIM
        self.norm_image = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.q = Linear(dim, config.heads_dim, bias=False)
        self.kv = Linear(dim, 2 * config.heads_dim, bias=False)
        self.out = Linear(config.heads_dim, dim, bias=False)
        self.norm_ff = nn.LayerNorm(dim)
        self.up = Linear(dim, config.ff_dim, bias=False)
        self.down = Linear(config.ff_dim, dim, bias=False)

    def forward(self, latents: Tensor, image: Tensor) -> Tensor:
        own = self.norm_latents(latents)
        keys, values = self.kv(torch.cat([self.norm_image(image), own], dim=1)).chunk(2, dim=-1)
        source = Source(split_heads(keys, self.heads), split_heads(values, self.heads))
        latents = latents + self.out(attend(split_heads(self.q(own), self.heads), [source]))
        return latents + self.down(F.gelu(self.up(self.norm_ff(latents))))


class Resampler(nn.Module):
    """The projection of the "plus" adapters (a Perceiver; Jaegle et al. 2021, arXiv 2103.03206): hidden states
    (B, L, image_dim) to (B, tokens, context_dim).
    """

    def __init__(self, config: IPAdapterConfig) -> None:
        super().__init__()
        self.latents = Learned(1, config.tokens, config.inner_dim)
        self.proj_in = Linear(config.image_dim, config.inner_dim)
        self.layers = nn.ModuleList(ResamplerLayer(config) for _ in range(config.depth))
        self.proj_out = Linear(config.inner_dim, config.context_dim)
        self.norm_out = nn.LayerNorm(config.context_dim)

    def forward(self, hidden: Tensor) -> Tensor:
        image = self.proj_in(hidden)
        latents = self.latents().to(image.dtype).expand(len(image), -1, -1)
        for layer in self.layers:
            latents = layer(latents, image)
        return self.norm_out(self.proj_out(latents))


class KeyValue(nn.Module):
    """Keys and values of image tokens for one cross-attention."""

    def __init__(self, context_dim: int, dim: int) -> None:
        super().__init__()
        self.k = Linear(context_dim, dim, bias=False)
        self.v = Linear(context_dim, dim, bias=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.k(tokens), self.v(tokens)


class IPAdapter(nn.Module):
    """`project` makes tokens of what the image encoder gives, `places` their keys and values, in the file's order."""

    def __init__(self, config: IPAdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.project = Resampler(config) if config.is_plus else ImageProjection(config)
        self.places = nn.ModuleList(KeyValue(config.context_dim, width) for width in config.widths)

    def forward(self, encoded: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (1, n * tokens, width) for every place, of n images side by side. Each of `encoded` is an
        image: its hidden states (1, L, image_dim) for a plus adapter, else its embedding (1, image_dim).
        """
        tokens = torch.cat([self.project(each) for each in encoded], dim=1)
        return [place(tokens) for place in self.places]


def file_order(names: Sequence[str]) -> list[str]:
    """The names of a UNet's transformer blocks in the order in which the files of adapters number them: down, up, and
    the middle last.
    """
    return sorted(names, key=lambda name: name.startswith("mid."))
