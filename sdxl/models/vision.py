"""The image encoder of CLIP (Radford et al. 2021), as OpenCLIP's ViT-H and ViT-bigG: pixels in, hidden states and the
image's embedding out.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from .clip import Layer
from .layers import Conv2d, Embedding, Learned, Linear
from .vision_config import VisionConfig


class VisionEncoder(nn.Module):
    """A vision transformer with norms in front, over patches of an image and a class token."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.class_embed = Learned(config.dim)
        self.patch_embed = Conv2d(3, config.dim, config.patch, stride=config.patch, bias=False)
        self.position_embed = Embedding(config.positions, config.dim)
        self.norm_in = nn.LayerNorm(config.dim, config.norm_eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(config.dim, config.norm_eps)
        self.projection = Linear(config.dim, config.projection_dim, bias=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode normalised pixels (B, 3, S, S) to the hidden states in front of the last layer, without the final
        norm, (B, positions, dim), and the projected embedding (B, projection_dim).
        """
        patches = rearrange(self.patch_embed(pixels), "b c h w -> b (h w) c")
        x = torch.cat([self.class_embed().expand(len(patches), 1, -1), patches], dim=1) + self.position_embed.weight
        x = self.norm_in(x.to(self.norm_in.weight.dtype))
        for layer in self.layers[:-1]:
            x = layer(x, causal=False)
        last = self.layers[-1](x, causal=False)[:, 0]  # the class token
        return x, self.projection(self.norm_out(last))
