"""What the service counts, in Prometheus' text format (exposition format 0.0.4)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping

from ..runtime import system_memory

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)


class Metrics:
    """Counters that all threads add to."""

    def __init__(self) -> None:
        self.jobs: Counter[str] = Counter()  # ended ones, by their status
        self.failures: Counter[str] = Counter()  # by the type of the error
        self.requests: Counter[str] = Counter()  # by the status of the answer
        self.images = self.steps = 0
        self._seconds = 0.0
        self._buckets = [0] * len(_SECONDS)
        self._lock = threading.Lock()

    def add_step(self) -> None:
        """Count a step."""
        with self._lock:
            self.steps += 1

    def add_images(self, count: int, seconds: float) -> None:
        """Count the images of a batch, which took so many seconds together."""
        with self._lock:
            self.images += count
            self._seconds += seconds
            for number, most in enumerate(_SECONDS):
                self._buckets[number] += count * (seconds / count <= most)

    def add_job(self, status: str, failure: str | None) -> None:
        """Count a job that has ended."""
        with self._lock:
            self.jobs[status] += 1
            if failure is not None:
                self.failures[failure] += 1

    def add_request(self, status: int) -> None:
        """Count a request that was answered."""
        with self._lock:
            self.requests[str(status)] += 1

    def text(self, waiting: int, running: int, is_ready: bool) -> str:
        """All of them, beside the present state of the queue."""
        with self._lock:
            lines = [
                *_metric("queue_length", "gauge", "jobs that wait", {"": waiting}),
                *_metric("jobs_running", "gauge", "jobs that run", {"": running}),
                *_metric("ready", "gauge", "whether a model is loaded", {"": int(is_ready)}),
                *_metric("jobs_total", "counter", "jobs that have ended", _labelled("status", self.jobs)),
                *_metric("failures_total", "counter", "failed jobs", _labelled("type", self.failures)),
                *_metric("requests_total", "counter", "answers", _labelled("status", self.requests)),
                *_metric("images_total", "counter", "finished images", {"": self.images}),
                *_metric("steps_total", "counter", "sampler steps", {"": self.steps}),
                *self._histogram(),
                *_memory(),
            ]
        return "\n".join(lines) + "\n"

    def _histogram(self) -> Iterable[str]:
        buckets = {f'_bucket{{le="{most:g}"}}': n for most, n in zip(_SECONDS, self._buckets, strict=True)}
        buckets |= {'_bucket{le="+Inf"}': self.images}
        values: dict[str, float] = {**buckets, "_sum": round(self._seconds, 6), "_count": self.images}
        return _metric("image_seconds", "histogram", "seconds for each image", values)


def _metric(name: str, kind: str, help: str, values: Mapping[str, float]) -> Iterable[str]:
    yield f"# HELP sdxl_{name} {help}"
    yield f"# TYPE sdxl_{name} {kind}"
    for label, value in values.items():
        yield f"sdxl_{name}{label} {value}"


def _labelled(label: str, counts: Counter[str]) -> dict[str, float]:
    return {f'{{{label}="{name}"}}': count for name, count in sorted(counts.items())}


def _memory() -> Iterable[str]:
    """The memory of the process, where the system says it."""
    size = system_memory.resident()
    return _metric("resident_memory_bytes", "gauge", "memory of the process", {"": size}) if size else ()
