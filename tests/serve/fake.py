"""A pipeline without a network: steps of a length that a test chooses, and grey images."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from types import SimpleNamespace
from typing import Any

from PIL import Image

from sdxl.pipeline import ModelRequest, Request
from sdxl.pipeline.result import Result

_DEFAULTS = {each.name: None if each.default is MISSING else each.default for each in fields(Request)}

_INFO = SimpleNamespace(
    family=None,
    config=SimpleNamespace(native_size=(8, 8)),
    schedule=SimpleNamespace(sampler="euler", schedule="leading"),
)


@dataclass
class FakePipe:
    """Each call waits at each of its steps for `go`. `calls` are the arguments of all calls, `error` is raised by one
    whose prompt is "error".
    """

    model: str = "one"
    device: str = "cpu"
    dtype: str = "float32"
    offload: str = "none"
    go: Callable[[], object] = lambda: None
    error: BaseException | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)
    at_step: threading.Event = field(default_factory=threading.Event)
    info: Any = field(default_factory=lambda: _INFO)

    def plan(self, request: Any) -> Any:
        sources = SimpleNamespace(arguments=dict)
        plan = SimpleNamespace(request=request, sigmas=(1.0, 0.0), size=(8, 8), canvases=(), sources=sources)
        plan.passes = (plan,)
        return plan

    def __call__(self, prompt: str, progress: bool, callback: Callable[[Any], bool], **more: Any) -> Result:
        self.calls.append({"prompt": prompt, **more})
        if prompt == "error" and self.error is not None:
            raise self.error
        steps, stopped = more.get("steps", 2), None
        for index in range(steps):
            is_last = index + 1 == steps
            self.at_step.set()
            self.go()
            if callback(SimpleNamespace(index=index, total=steps, sigma=1.0, is_last=is_last, preview=list)):
                stopped = index + 1
                break
        count = more.get("num_images", 1)
        stated = {name: value for name, value in more.items() if name not in ("image", "mask", "control")}
        request = {**_DEFAULTS, "prompt": prompt, "sampler": "euler", "schedule": "leading", "steps": steps, **stated}
        record = {"version": "sdxl 0", "model": {"model": self.model}, "request": request, "stopped": stopped}
        seeds: list[int | None] = [more["seed"] + n for n in range(count)]
        return Result([Image.new("RGB", (8, 8), "grey")] * count, seeds, [record] * count)


def loader(pipe: FakePipe) -> Callable[[ModelRequest], Any]:
    """Loads one pipeline for every model."""
    return lambda request: pipe
