"""Work on a CUDA device that is recorded once and then replayed with one launch: a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Recording:
    """Every `replay` writes `output`. `bytes` are what the recording keeps of the device's memory."""

    graph: torch.cuda.CUDAGraph
    output: Tensor
    bytes: int

    def replay(self) -> None:
        """Ask for the recorded work on the current stream."""
        self.graph.replay()

    def finish(self) -> None:
        """Wait for the last replay: a graph is not to be let go while it runs."""
        with suppress(RuntimeError):  # after an error of the device, or in a recording that has failed
            torch.cuda.synchronize(self.output.device)


class Recorder:
    """Records on a stream of its own. All of its recordings are replayed there too, one after the other, so they can
    share their memory, and threads with streams of their own do not disturb each other.
    """

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None

    @contextmanager
    def aside(self, device: torch.device) -> Iterator[None]:
        """What is asked for inside runs on that stream: after all that was asked for before, and before all later."""
        if self._stream is None or self._stream.device != device:
            self._stream = torch.cuda.Stream(device)
        current = torch.cuda.current_stream(device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.device(device), torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def record(self, work: Callable[[], Tensor], beside: Recording | None) -> Recording:
        """Record `work` inside of `aside`, where it must have run once before: libraries make their handles and plans
        then. Its feature maps lie where those of the recording `beside` do.
        """
        torch.cuda.empty_cache()  # memory that `work` has left can be taken by no recording
        before, graph = torch.cuda.memory_reserved(), torch.cuda.CUDAGraph()
        pool = None if beside is None else beside.graph.pool()  # of a living one: an empty pool cannot be taken again
        # other threads may load models meanwhile
        with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
            output = work()
        return Recording(graph, output, torch.cuda.memory_reserved() - before)
