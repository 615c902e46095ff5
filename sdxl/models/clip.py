"""The text transformer of CLIP (Radford et al. 2021): token ids in, hidden states and the pooled text embedding out.

CLIP-L and OpenCLIP's bigG are values of `TextConfig`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .clip_config import TransformerConfig
from .config import TextConfig
from .layers import Attention, Embedding, Linear


@dataclass(frozen=True)
class Insert:
    """Vectors (N, dim) in place of token embeddings, in a row of a batch from position `start` on."""

    row: int
    start: int
    vectors: Tensor


class FeedForward(nn.Module):
    """Two linear layers with GELU, or with CLIP-L's approximation of it, x * sigmoid(1.702 x)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.quick = config.activation == "quick_gelu"
        self.up = Linear(config.dim, config.ff_dim)
        self.down = Linear(config.ff_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        return self.down(x * torch.sigmoid(1.702 * x) if self.quick else F.gelu(x))


class Layer(nn.Module):
    """Self-attention, causal in texts, and feed-forward, each behind a layer norm and added."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, config.norm_eps)
        self.attn = Attention(config.dim, config.dim, config.heads, bias=True)
        self.norm2 = nn.LayerNorm(config.dim, config.norm_eps)
        self.ff = FeedForward(config)

    def forward(self, x: Tensor, causal: bool = True) -> Tensor:
        x = x + self.attn(self.norm1(x), causal=causal)
        return x + self.ff(self.norm2(x))


class TextEncoder(nn.Module):
    """A CLIP text encoder. There is no padding mask: pad tokens are attended to, as in training."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embed = Embedding(config.vocab_size, config.dim)
        self.position_embed = Embedding(config.positions, config.dim)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(config.dim, config.norm_eps)
        self.projection = (
            None if config.projection_dim is None else Linear(config.dim, config.projection_dim, bias=False)
        )

    def forward(self, ids: Tensor, clip_skip: int = 0, inserts: Sequence[Insert] = ()) -> tuple[Tensor, Tensor | None]:
        """Encode ids (B, L) to the hidden state in front of the last `clip_skip` + 1 layers, without the final norm,
        (B, L, dim), and the pooled embedding (B, projection_dim), None without a projection. `inserts` replace the
        embeddings of tokens; the ids there must be lower than the end token's.
        """
        x = self.token_embed(ids)
        for insert in inserts:
            x[insert.row, insert.start : insert.start + len(insert.vectors)] = insert.vectors.to(x)
        x = (x + self.position_embed.weight[: ids.shape[1]]).to(self.norm_out.weight.dtype)
        stop = len(self.layers) - 1 - clip_skip
        for layer in self.layers[:stop]:
            x = layer(x)
        return x, None if self.projection is None else self._pool(x, ids, stop)

    def _pool(self, x: Tensor, ids: Tensor, start: int) -> Tensor:
        """Finish the layers from `start` and project the state at the end of the text."""
        for layer in self.layers[start:]:
            x = layer(x)
        eos = self.config.eos_id
        # argmax of the ids: the end token has the highest id, and argmax finds the first
        at = ids.argmax(dim=1) if eos is None else (ids == eos).int().argmax(dim=1)
        x = self.norm_out(x[torch.arange(len(ids), dtype=torch.long, device=ids.device), at])
        assert self.projection is not None
        return self.projection(x)
