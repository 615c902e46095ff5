"""A network made faster for CUDA: its blocks compiled one class at a time, its steps replayed as a CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.conditioned import ConditionedUNet
from ..models.layers import Attention, ResBlock, Source, Upsample, attend, split_heads
from ..models.unet import Memory, SpatialTransformer, TransformerBlock, UNet
from ..models.vae import Decoder, Encoder
from .rewrite import rewrite

METHODS = {SpatialTransformer: ("to_tokens", "to_map"), UNet: ("head",), Encoder: ("head",), Decoder: ("head",)}
SHAPES = 64  # that one class of block is compiled for; torch gives up after 8


def compile_blocks(model: nn.Module) -> None:
    """Compile the blocks of a UNet or VAE and the layers between them, in place, at their first use.

    All blocks of one shape share the result, so this takes a tenth of the time of compiling the whole network.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rewrite(model, lambda name, layer: FusedAttention(layer) if name.endswith(".self_attn") else None)
    for module in model.modules():
        if isinstance(module, (ResBlock, TransformerBlock, Upsample)):
            module.compile(dynamic=False)
        for name in METHODS.get(type(module), ()):
            setattr(module, name, torch.compile(getattr(module, name), dynamic=False))


class FusedAttention(nn.Module):
    """Self-attention whose three projections are one matrix."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        assert isinstance(plain, Attention)
        self.heads, self.out = plain.heads, plain.out
        self.qkv = nn.Parameter(torch.cat([plain.q.weight, plain.k.weight, plain.v.weight]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in F.linear(x, self.qkv).chunk(3, dim=-1))
        h: Tensor = self.out(attend(q, [Source(k, v)]))
        return h

    def source(self, context: Tensor, first: int = 0) -> Source:
        """As `Attention.source`."""
        keys, values = F.linear(context, self.qkv[self.qkv.shape[1] :]).chunk(2, dim=-1)
        return Source(split_heads(keys, self.heads), split_heads(values, self.heads), first)

    def attend(self, x: Tensor, sources: Sequence[Source], first: int = 0) -> Tensor:
        """As `Attention.attend`."""
        q = F.linear(x, self.qkv[: self.qkv.shape[1]])
        h: Tensor = self.out(attend(split_heads(q, self.heads), sources, first))
        return h


class Graph:
    """A UNet's step of one shape, recorded as a CUDA graph when it first runs, so that a step costs one launch."""

    def __init__(self) -> None:
        self._graph: torch.cuda.CUDAGraph | None = None
        self._conditioned: ConditionedUNet | None = None

    def run(self, conditioned: ConditionedUNet, x: Tensor, t: float) -> Tensor:
        """`conditioned(x, t)`; the conditioning may differ from the last one, but not in its shapes."""
        emb = conditioned.emb(t)
        if self._graph is None:
            self._graph = self._record(conditioned, x, emb)
        elif conditioned is not self._conditioned:
            torch._foreach_copy_(_tensors(self._memories), _tensors(conditioned.memories))
        self._conditioned = conditioned
        self._x.copy_(x)
        self._emb.copy_(emb)
        self._graph.replay()
        return self._output.clone()

    def _record(self, conditioned: ConditionedUNet, x: Tensor, emb: Tensor) -> torch.cuda.CUDAGraph:
        """Run once, since a first run compiles and plans, then once more to record."""
        unet = conditioned.unet
        with torch.inference_mode(False):  # such tensors could not be written outside of that mode
            self._x, self._emb = x.clone(), emb.clone()
            self._memories = [_clone(memory) for memory in conditioned.memories]
        unet.predict(self._x, self._emb, self._memories)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._output = unet.predict(self._x, self._emb, self._memories)
        return graph


class Graphs:
    """The graphs of images of the last size. They hold their UNet: clear them before it is released or changed."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[object, ...], Graph] = {}

    def network(self, conditioned: ConditionedUNet, shape: Sequence[int]) -> partial[Tensor]:
        """A conditioned UNet as a network that replays a graph, for latents of `shape` (B, C, h, w)."""
        size = tuple(shape)
        self._graphs = {key: graph for key, graph in self._graphs.items() if key[0] == size}
        key = (size, id(conditioned.unet), len(conditioned.branches), _signature(conditioned.memories))
        return partial(self._graphs.setdefault(key, Graph()).run, conditioned)

    def __len__(self) -> int:
        return len(self._graphs)

    def clear(self) -> None:
        """Drop them, and with them what they hold."""
        self._graphs.clear()


def _signature(memories: Sequence[Memory]) -> tuple[object, ...]:
    """What must be equal for one graph to serve several memories."""
    return tuple((memory.own, *map(_source_signature, memory.cross)) for memory in memories)


def _source_signature(source: Source) -> tuple[object, ...]:
    weight = tuple(source.weight.shape) if isinstance(source.weight, Tensor) else source.weight
    return source.keys is None, tuple(source.values.shape), source.first, weight


def _clone(memory: Memory) -> Memory:
    copies = []
    for source in memory.cross:
        weight = source.weight.clone() if isinstance(source.weight, Tensor) else source.weight
        keys = None if source.keys is None else source.keys.clone()
        copies.append(Source(keys, source.values.clone(), source.first, weight))
    return Memory(tuple(copies), memory.own)


def _tensors(memories: Sequence[Memory]) -> list[Tensor]:
    parts = [(each.keys, each.values, each.weight) for memory in memories for each in memory.cross]
    return [part for source in parts for part in source if isinstance(part, Tensor)]
