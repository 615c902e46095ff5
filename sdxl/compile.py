"""A network made faster for CUDA: its blocks compiled one kind at a time, its steps replayed as a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .denoise import Told
from .nn import ResBlock
from .unet import SpatialTransformer, TransformerBlock

KINDS = 64  # of shapes that one kind of block is compiled for; torch gives up after 8


def compile_blocks(model: nn.Module) -> None:
    """Compile the residual and transformer blocks of a UNet or VAE, in place, at their first use.

    All blocks of one shape share the result, so this takes a tenth of the time of compiling the whole network.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, KINDS)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        if isinstance(module, (ResBlock, TransformerBlock)):
            module.compile(dynamic=False)
        elif isinstance(module, SpatialTransformer):
            for name in ("enter", "leave"):
                setattr(module, name, torch.compile(getattr(module, name), dynamic=False))


class Captured:
    """A `Told` UNet recorded as a CUDA graph at its first call, so that a step costs one launch."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, x: Tensor, t: float) -> Tensor:
        emb = self.told.embs[t]
        if self._graph is None:
            self._record(x, emb)
        assert self._graph is not None
        self._x.copy_(x)
        self._emb.copy_(emb)
        self._graph.replay()
        return self._output.clone()

    def _record(self, x: Tensor, emb: Tensor) -> None:
        """Run once, since a first run compiles and plans, then once more to record."""
        self._x, self._emb = x.clone(), emb.clone()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.told.unet.denoise(self._x, self._emb, self.told.text)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = self.told.unet.denoise(self._x, self._emb, self.told.text)
