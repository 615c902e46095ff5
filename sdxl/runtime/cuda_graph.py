"""A network made faster for CUDA: its blocks compiled one class at a time, its steps replayed as a CUDA graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ArgumentError, warn
from ..models.conditioned import ConditionedUNet
from ..models.layers import Attention, Linear, Source, attend, split_heads
from ..models.unet import TransformerBlock
from .fingerprint import fingerprint
from .memory import is_out_of_memory, unet_bytes
from .placement import Placement
from .recording import Recorder, Recording
from .rewrite import rewrite

SHAPES = 64  # that one class of block is compiled for; torch gives up after 8
EAGER_RUNS = 4  # before a step is recorded, which takes the time of one to three: an image of four steps needs no graph
MOST = 8  # graphs of a pipeline: for each of two passes, base and refiner, with and without guidance


def check_compiler(at: Placement) -> None:
    """Raise `ArgumentError` where Triton is missing or too new for the GPU: torch's compiler makes kernels with it."""
    least = (8, 9) if at.fp8 else (7, 0)
    if not torch.version.hip and (found := torch.cuda.get_device_capability(at.device)) < least:
        what, advice = ("compile with fp8", "leave one of them out") if at.fp8 else ("compile", "leave it out")
        raise ArgumentError(
            f"{what} needs a GPU of compute capability {least[0]}.{least[1]}, this one has {found[0]}.{found[1]}; "
            + advice
        )
    if find_spec("triton") is None:
        raise ArgumentError(
            "compile needs Triton, which comes with torch for CUDA on Linux; install triton-windows on Windows, or "
            "leave compile out"
        )


def compile_blocks(model: nn.Module) -> None:
    """Compile the transformer blocks of a UNet, in place, at their first use. All blocks of one shape share the result.

    With residual blocks and the VAE's too, a first image took six times as long, for 8 % of the time of later ones.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rewrite(model, _fused)
    for module in model.modules():
        if isinstance(module, TransformerBlock):
            module.compile(dynamic=False)


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

    def source(self, context: Tensor, first: int = 0, values_of: Tensor | None = None) -> Source:
        """As `Attention.source`."""
        width = self.qkv.shape[1]
        if values_of is None:
            keys, values = F.linear(context, self.qkv[width:]).chunk(2, dim=-1)
        else:
            keys, values = F.linear(context, self.qkv[width:-width]), F.linear(values_of, self.qkv[-width:])
        return Source(split_heads(keys, self.heads), split_heads(values, self.heads), first)

    def attend(self, x: Tensor, sources: Sequence[Source], first: int = 0) -> Tensor:
        """As `Attention.attend`."""
        q = F.linear(x, self.qkv[: self.qkv.shape[1]])
        h: Tensor = self.out(attend(split_heads(q, self.heads), sources, first))
        return h


@dataclass(frozen=True)
class Tape:
    """A recorded step, and the copies of its inputs that it reads."""

    recording: Recording
    conditioned: ConditionedUNet
    x: Tensor
    step: list[Tensor]


class Graph:
    """A UNet's step of one shape. It runs layer by layer at first; then it is recorded, and replayed at one launch."""

    def __init__(self) -> None:
        self.tape: Tape | None = None
        self.forget()

    def forget(self) -> None:
        """Let the recording go, and with it the networks."""
        if self.tape is not None:
            self.tape.recording.finish()
        self.tape = None
        self.runs = 0  # since something of its networks changed
        self._fingerprint: object = None
        self._conditioned: ConditionedUNet | None = None  # whose tensors the tape has

    def run(self, graphs: Graphs, conditioned: ConditionedUNet, x: Tensor, t: float) -> Tensor:
        """`conditioned(x, t)`; the conditioning may differ from the last one, but not in its shapes."""
        step = conditioned.step(t)
        found = fingerprint(conditioned.networks)
        if found is None or (found, x.shape, x.dtype) != self._fingerprint:
            self.forget()
            self._fingerprint = found, x.shape, x.dtype
        self.runs += 1
        if self.tape is None and (found is None or not graphs.wants(self.runs, conditioned, x)):
            return conditioned.predict(x, step)
        channels = conditioned.unet.config.out_channels
        output = x.new_empty((len(x), channels, *x.shape[2:]))  # of the current stream's memory
        if self.tape is None:
            self.tape = graphs.record(conditioned, x, step, output)
            if self.tape is None:
                return conditioned.predict(x, step)
        else:
            with graphs.recorder.aside(x.device):
                self._replay(self.tape, conditioned, x, step)
                output.copy_(self.tape.recording.output)
        self._conditioned = conditioned
        return output

    def _replay(self, tape: Tape, conditioned: ConditionedUNet, x: Tensor, step: list[Tensor]) -> None:
        if conditioned is not self._conditioned:
            torch._foreach_copy_(tensors_of(tape.conditioned), tensors_of(conditioned.without_steps()))
        tape.x.copy_(x)
        torch._foreach_copy_(tape.step, step)
        tape.recording.replay()


class Graphs:
    """The graphs of a pipeline's steps, those of the last `MOST` kinds. They hold their networks: clear them before one
    is released.

    A step is recorded after `eager_runs` others, if that takes no more memory than `room` gives for latents of
    (height, width).
    """

    def __init__(
        self,
        room: Callable[[Sequence[int]], float] = lambda _: math.inf,
        eager_runs: int = EAGER_RUNS,
        recorder: Recorder | None = None,
    ) -> None:
        self.room, self.eager_runs, self.recorder = room, eager_runs, recorder or Recorder()
        self.stopped = False
        self._graphs: dict[object, Graph] = {}  # the last used at the end

    def network(self, conditioned: ConditionedUNet, shape: Sequence[int]) -> partial[Tensor]:
        """A conditioned UNet as a network that replays a graph, for latents of `shape` (B, C, h, w)."""
        return partial(self._run, (tuple(shape), signature(conditioned.without_steps())), conditioned)

    def _run(self, key: object, conditioned: ConditionedUNet, x: Tensor, t: float) -> Tensor:
        graph = self._graphs[key] = self._graphs.pop(key) if key in self._graphs else Graph()
        while len(self._graphs) > MOST:
            self._graphs.pop(next(iter(self._graphs))).forget()
        try:
            return graph.run(self, conditioned, x, t)
        except RuntimeError as error:
            if not _is_of_compiler(error):
                raise
            reason = str(error).strip().splitlines()[0]
            raise ArgumentError(f"torch's compiler has failed ({reason}); leave compile out") from error

    def wants(self, runs: int, conditioned: ConditionedUNet, x: Tensor) -> bool:
        """Whether a step is to be recorded that runs for the time `runs`. Memory is looked at once."""
        if self.stopped or runs != self.eager_runs + 1:
            return False
        at, config = Placement(x.device, x.dtype, x.dtype), conditioned.unet.config
        maps = (1 + len(conditioned.steers)) * unet_bytes(config, len(x), x.shape[2:], at)
        inputs = sum(each.nbytes for each in tensors_of(conditioned.without_steps()))
        return maps + inputs <= self.room(x.shape[2:])

    def record(self, conditioned: ConditionedUNet, x: Tensor, step: Sequence[Tensor], output: Tensor) -> Tape | None:
        """Run once, since a first run on a stream compiles and plans, then once more to record; None if that fails."""
        try:
            with self.recorder.aside(x.device):
                with torch.inference_mode(False):  # such tensors could not be written outside of that mode
                    x, step = x.clone(), [each.clone() for each in step]
                    static: ConditionedUNet = mapped(conditioned.without_steps(), torch.Tensor.clone)
                output.copy_(static.predict(x, step))
                beside = next(iter(self.recordings()), None)
                return Tape(self.recorder.record(lambda: static.predict(x, step), beside), static, x, step)
        except (RuntimeError, AssertionError) as error:
            if (self.eager_runs == 0 and is_out_of_memory(error)) or _is_of_compiler(error):
                raise  # where they are asked for, less of the model makes room
            reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        self.stop(reason)
        return None

    def recordings(self) -> list[Recording]:
        """What is recorded."""
        return [graph.tape.recording for graph in self._graphs.values() if graph.tape is not None]

    @property
    def bytes(self) -> int:
        """What the recordings keep of the device's memory, though nothing is allocated in it."""
        return sum(recording.bytes for recording in self.recordings())

    def __len__(self) -> int:
        return len(self._graphs)

    def clear(self) -> None:
        """Drop them, and with them what they hold."""
        for graph in self._graphs.values():
            graph.forget()
        self._graphs.clear()

    def stop(self, reason: str) -> None:
        """Drop them, record no more, and warn with the reason."""
        self.clear()
        self.stopped = True
        warn(f"steps are no longer recorded as CUDA graphs ({reason}); going on layer by layer, which is slower")


def _is_of_compiler(error: Exception) -> bool:
    """Whether it is torch's compiler that has failed. (Its errors are not imported where nothing is compiled.)"""
    return any(kind.__name__ == "TorchDynamoException" for kind in type(error).__mro__)


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
