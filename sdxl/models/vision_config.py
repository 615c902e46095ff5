"""What an image encoder and an IP-Adapter are, as data. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from .bounds import MOST_DEPTH, MOST_LAYERS, MOST_SIDE, MOST_WIDTH, bound
from .clip_config import check_transformer

HEAD_DIM = 64  # of the heads of a `Resampler`


@dataclass(frozen=True)
class VisionConfig:
    """The image encoder of CLIP. The defaults are those of OpenCLIP's ViT-H/14."""

    dim: int = 1280
    ff_dim: int = 5120
    layers: int = 32
    heads: int = 16
    patch: int = 14
    image_size: int = 224
    projection_dim: int = 1024
    activation: str = "gelu"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_transformer("image encoder", self)
        bound("the image encoder's image_size and patch_size", (self.image_size, self.patch), MOST_SIDE)
        if self.image_size < self.patch:
            raise ConfigError(
                f"the image encoder has patches of {self.patch} pixels in images of {self.image_size}; download its "
                "config again"
            )

    @property
    def positions(self) -> int:
        """How many tokens it has: one for each patch, and the class token."""
        return (self.image_size // self.patch) ** 2 + 1


@dataclass(frozen=True)
class IPAdapterConfig:
    """An IP-Adapter: `tokens` vectors of width `context_dim` for an image, to which the cross-attentions of a UNet
    attend, of the widths `widths` in the order of the file: down, up, middle.

    `image_dim` is the width of what it takes from an image encoder: for a plain one the projected embedding, for one
    with a `Resampler` the hidden states. That has `depth` layers of `inner_dim` channels; a plain one has none.
    """

    image_dim: int
    context_dim: int
    widths: tuple[int, ...]
    tokens: int = 4
    depth: int = 0
    inner_dim: int = 0
    heads_dim: int = 0
    ff_dim: int = 0

    def __post_init__(self) -> None:
        bound("places of the IP-Adapter", [len(self.widths)], MOST_DEPTH)
        bound("widths of the IP-Adapter", (self.image_dim, self.context_dim, self.tokens, *self.widths), MOST_WIDTH)
        bound("layers of the IP-Adapter's resampler", [self.depth], MOST_LAYERS, least=0)
        if self.is_plus:
            bound("widths of the IP-Adapter's resampler", (self.inner_dim, self.heads_dim, self.ff_dim), MOST_WIDTH)
            if self.heads_dim % HEAD_DIM:
                raise ConfigError(
                    f"the IP-Adapter's resampler has {self.heads_dim} channels, which are no heads of {HEAD_DIM}; "
                    "download it again"
                )

    @property
    def is_plus(self) -> bool:
        """Whether it has a resampler."""
        return self.depth > 0
