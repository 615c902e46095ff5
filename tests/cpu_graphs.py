"""Recordings on a CPU that behave as CUDA graphs do.

What is recorded are the operations on tensors, with the weights and inputs where they lay then. A replay runs these
operations again and no Python: it sees what was written into its inputs, and misses hooks and exchanged layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from sdxl.runtime.recording import Recorder, Recording


class Operations(TorchDispatchMode):
    """Notes each operation with its arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, tree_map(self._held, args), tree_map(self._held, kwargs or {}), found))
        self._made |= {id(each) for each in tree_flatten(found)[0] if isinstance(each, Tensor)}
        return found

    def _held(self, value: Any) -> Any:
        """A tensor from outside, at the place where it lies now."""
        is_outer = isinstance(value, Tensor) and id(value) not in self._made
        return value.detach() if is_outer and value.layout is torch.strided else value


@dataclass(frozen=True)
class CPURecording(Recording):
    """The operations of one run."""

    calls: list[Any] = field(default_factory=list)

    def replay(self) -> None:
        made: dict[int, Any] = {}

        def present(value: Any) -> Any:
            return made.get(id(value), value) if isinstance(value, Tensor) else value

        for func, args, kwargs, found in self.calls:
            new = func(*tree_map(present, args), **tree_map(present, kwargs))
            for old, own in zip(tree_flatten(found)[0], tree_flatten(new)[0], strict=True):
                if isinstance(old, Tensor):
                    made[id(old)] = own
        self.output.copy_(made[id(self.calls[-1][3])])

    def finish(self) -> None:
        """It is done at once."""


class CPURecorder(Recorder):
    """Records on a CPU; `count` says how often. It fails with `error` where there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.count, self.error = 0, error
        self.beside: list[Recording | None] = []

    @contextmanager
    def aside(self, device: torch.device) -> Iterator[None]:
        yield

    def record(self, work: Callable[[], Tensor], beside: Recording | None) -> Recording:
        self.count += 1
        self.beside.append(beside)
        if self.error is not None:
            raise self.error
        with Operations() as operations:
            output = work()
        assert output is operations.calls[-1][3]
        return CPURecording(None, output.clone(), 1000, operations.calls)  # type: ignore[arg-type]
