"""A network made faster for CUDA: its blocks compiled one kind at a time, its steps replayed as a CUDA graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .denoise import Told
from .nn import Attention, ResBlock, Upsample
from .unet import SpatialTransformer, Text, TransformerBlock, UNet
from .vae import Decoder, Encoder

PARTS = {SpatialTransformer: ("enter", "leave"), UNet: ("finish",), Encoder: ("finish",), Decoder: ("finish",)}
KINDS = 64  # of shapes that one kind of block is compiled for; torch gives up after 8


def compile_blocks(model: nn.Module) -> None:
    """Compile the blocks of a UNet or VAE and the layers between them, in place, at their first use.

    All blocks of one shape share the result, so this takes a tenth of the time of compiling the whole network.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, KINDS)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        if isinstance(module, TransformerBlock):
            module.self_attn = FusedAttention(module.self_attn)  # type: ignore[assignment]
        if isinstance(module, (ResBlock, TransformerBlock, Upsample)):
            module.compile(dynamic=False)
        for name in PARTS.get(type(module), ()):
            setattr(module, name, torch.compile(getattr(module, name), dynamic=False))


class FusedAttention(nn.Module):
    """Self-attention whose three projections are one matrix."""

    def __init__(self, plain: Attention) -> None:
        super().__init__()
        self.heads, self.out = plain.heads, plain.out
        self.qkv = nn.Parameter(torch.cat([plain.q.weight, plain.k.weight, plain.v.weight]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(F.linear(x, self.qkv), "b l (three h d) -> three b h l d", three=3, h=self.heads)
        h: Tensor = self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "b h l d -> b l (h d)"))
        return h


class Graph:
    """A UNet's step of one shape, recorded as a CUDA graph when it first runs, so that a step costs one launch."""

    def __init__(self) -> None:
        self._graph: torch.cuda.CUDAGraph | None = None
        self._told: Told | None = None

    def run(self, told: Told, x: Tensor, t: float) -> Tensor:
        """`told(x, t)`; the conditioning may be another one than the last time, of the same shape."""
        emb = told.emb(t)
        if self._graph is None:
            self._graph = self._record(told, x, emb)
        elif told is not self._told:
            torch._foreach_copy_(_tensors(self._text), _tensors(told.text))
        self._told = told
        self._x.copy_(x)
        self._emb.copy_(emb)
        self._graph.replay()
        return self._output.clone()

    def _record(self, told: Told, x: Tensor, emb: Tensor) -> torch.cuda.CUDAGraph:
        """Run once, since a first run compiles and plans, then once more to record."""
        unet = told.unet
        with torch.inference_mode(False):  # such tensors could not be written outside of that mode
            self._x, self._emb = x.clone(), emb.clone()
            self._text = [[(k.clone(), v.clone()) for k, v in place] for place in told.text]
        unet.denoise(self._x, self._emb, self._text)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._output = unet.denoise(self._x, self._emb, self._text)
        return graph


def _tensors(text: Text) -> list[Tensor]:
    return [tensor for place in text for keys_values in place for tensor in keys_values]
