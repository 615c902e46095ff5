"""A network made faster for CUDA: its blocks compiled one class at a time, its steps replayed as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.conditioned import ConditionedUNet
from ..models.layers import Attention, Linear, ResBlock, Source, Upsample, attend, split_heads
from ..models.tiny_vae import TinyBlock
from ..models.unet import SpatialTransformer, TransformerBlock, UNet
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
    rewrite(model, _fused)
    for module in model.modules():
        if isinstance(module, (ResBlock, TransformerBlock, Upsample, TinyBlock)):
            module.compile(dynamic=False)
        for name in METHODS.get(type(module), ()):
            setattr(module, name, torch.compile(getattr(module, name), dynamic=False))


def _fused(name: str, layer: nn.Module) -> nn.Module | None:
    """Self-attention with one matrix; None for another layer, and where the matrices are kept in 8 bits."""
    is_plain = name.endswith(".self_attn") and isinstance(layer.q, Linear)
    return FusedAttention(layer) if is_plain else None


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
        step = conditioned.step(t)
        if self._graph is None:
            self._graph = self._record(conditioned, x, step)
        elif conditioned is not self._conditioned:
            torch._foreach_copy_(tensors_of(self._static), tensors_of(conditioned.without_steps()))
        self._conditioned = conditioned
        self._x.copy_(x)
        torch._foreach_copy_(self._step, step)
        self._graph.replay()
        return self._output.clone()

    def _record(self, conditioned: ConditionedUNet, x: Tensor, step: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
        """Run once, since a first run compiles and plans, then once more to record."""
        with torch.inference_mode(False):  # such tensors could not be written outside of that mode
            self._x, self._step = x.clone(), [each.clone() for each in step]
            self._static: ConditionedUNet = mapped(conditioned.without_steps(), torch.Tensor.clone)
        self._static.predict(self._x, self._step)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._output = self._static.predict(self._x, self._step)
        return graph


class Graphs:
    """The graphs of images of the last size. They hold their networks: clear them before one is released or changed."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[object, ...], Graph] = {}

    def network(self, conditioned: ConditionedUNet, shape: Sequence[int]) -> partial[Tensor]:
        """A conditioned UNet as a network that replays a graph, for latents of `shape` (B, C, h, w)."""
        size = tuple(shape)
        self._graphs = {key: graph for key, graph in self._graphs.items() if key[0] == size}
        key = (size, signature(conditioned.without_steps()))
        return partial(self._graphs.setdefault(key, Graph()).run, conditioned)

    def __len__(self) -> int:
        return len(self._graphs)

    def clear(self) -> None:
        """Drop them, and with them what they hold."""
        self._graphs.clear()


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A value of dataclasses, lists and mappings with other tensors."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(each, change) for each in value)
    if isinstance(value, dict):
        return {key: mapped(each, change) for key, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: mapped(getattr(value, each.name), change) for each in fields(value)})
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors of such a value, in a fixed order."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.extend([tensor] if tensor.numel() else [])
        return tensor

    mapped(value, keep)
    return found


def signature(value: Any) -> object:
    """What must be equal for one graph to serve several such values: the networks, the shapes, and all numbers."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, nn.Module):
        return id(value)
    if isinstance(value, (list, tuple)):
        return tuple(map(signature, value))
    if isinstance(value, dict):
        return tuple((key, signature(each)) for key, each in value.items())
    if is_dataclass(value) and not isinstance(value, type):
        return type(value), tuple(signature(getattr(value, each.name)) for each in fields(value))
    return value
