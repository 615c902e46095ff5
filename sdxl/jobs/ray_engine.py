"""A Ray cluster as the engine of a job: the optional extra `ray`.

Workers generate; this process reads the job, opens its images and writes all files. Only the model must be on the
workers' machines. `RAY_ADDRESS` names the cluster; without it, one starts on this machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from ..errors import ArgumentError, DrawError, SDXLError
from ..runtime.precision import Precision
from .engine import Engine, Outcome, draw
from .folder import JobFolder
from .job import Batch
from .opening import Opening, warn_of_others

RETRIES = 3  # of a batch whose worker died: the batch may be the cause


class Worker:
    """An actor: a model, loaded once."""

    def __init__(self, opening: Opening, precision: Precision) -> None:
        self.pipe = opening.open(precision)
        self.preferred = opening.preferred(self.pipe)

    def ready(self) -> Precision:
        """Returns when the model is loaded, with the precision that this machine prefers."""
        return self.preferred

    def draw(self, batch: Batch) -> Outcome:
        """Generate one batch. If the GPU has failed, this process ends and Ray starts another."""
        try:
            return draw(self.pipe, batch)
        except DrawError:
            os._exit(1)


def _choose(opening: Opening) -> Precision:
    """What a worker's machine would choose, whatever the one of this process would."""
    return opening.choose()


def ray_engine(opening: Opening, folder: JobFolder, workers: int | None = None) -> Engine:
    """An engine of `workers` actors, each with a GPU or its share of the cores; None: one for each GPU, else one. If no
    process has chosen the precision of the job yet, a worker does.
    """
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise ArgumentError("engine ray needs Ray; install it with: pip install ray") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="ERROR")
    gpus, cores = (ray.cluster_resources().get(name, 0) for name in ("GPU", "CPU"))
    count = (int(gpus) or 1) if workers is None else workers
    if not 1 <= count <= (4 * gpus or cores):  # more would wait forever
        raise ArgumentError(f"workers is {count}; the cluster has {gpus:g} GPUs and {cores:g} cores, give fewer")
    most = min(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])  # a worker runs on one node
    together = math.ceil(count / gpus) if gpus else 0
    share = {"num_gpus": 1 / together if gpus else 0, "num_cpus": 0 if gpus else max(1, min(most, int(cores // count)))}
    try:
        task = ray.remote(max_retries=RETRIES, **share)(_choose)
        precision = folder.agree(lambda: ray.get(task.remote(opening)))
        actor = ray.remote(max_restarts=-1, max_task_retries=RETRIES, **share)(Worker)
        actors = [actor.remote(opening, precision) for _ in range(count)]
        warn_of_others(precision, ray.get([each.ready.remote() for each in actors]))
    except ray.exceptions.RayError as error:
        raise DrawError(
            f"the model cannot be loaded in a Ray worker ({_last_line(error)}); try it with --engine local"
        ) from error

    def engine(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Outcome]]:
        idle, running = list(actors), dict[Any, tuple[Any, Batch]]()
        while True:
            while idle and (batch := next(batches, None)) is not None:
                worker = idle.pop()
                running[worker.draw.remote(batch)] = worker, batch
            if not running:
                return
            (task,), _ = ray.wait(list(running), num_returns=1)
            worker, batch = running.pop(task)
            idle.append(worker)
            try:
                yield batch, ray.get(task)
            except ray.exceptions.RayError as error:
                if isinstance(error, SDXLError):  # raised by a worker, not a failure of the batch
                    raise
                yield batch, DrawError(f"Ray could not generate it ({_last_line(error)}); read the workers' logs")

    return engine


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
