"""A worker: one thread that has a model on one device, takes jobs from the engine, and generates their images.

It calls the pipeline as the command line does, so that a request's image is the same, and looks at each step through
the call's callback: a call repeats its steps with less in memory where a generator of steps would end with an error.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import OutOfMemoryError, SDXLError
from ..pipeline.batch_sizes import BatchSizes
from ..pipeline.model_request import ModelRequest
from ..pipeline.request import Request
from .catalog import Catalog
from .engine import Engine
from .job import Failure, Image, Job, Status
from .pace import PREVIEW_SECONDS, Pace, progress, strip_of
from .problems import argument_of
from .settings import Settings
from .sharing import together
from .warned import collecting
from .work import check_plan, opened

if TYPE_CHECKING:
    from ..pipeline.pipeline import Pipeline
    from ..pipeline.result import PipelineStep, Result

DEVICE_FAULT = 70
"""The exit status of a process whose GPU has failed: nothing but a new process can use it again."""
NO_MODEL = 1
_LOG = logging.getLogger("sdxl.serve")
Load = Callable[[ModelRequest], "Pipeline"]


class _CancelledError(Exception):
    """The job was cancelled."""


class _SkippedError(Exception):
    """This batch is left out."""


def load(request: ModelRequest) -> Pipeline:
    """The pipeline of a model."""
    from ..pipeline.pipeline import Pipeline

    return Pipeline.from_request(request)


def defaults(pipe: Pipeline) -> dict[str, Any]:
    """What a model takes where a request says nothing: size, steps, guidance_scale, sampler and schedule."""
    from ..pipeline.preset import with_preset

    info = pipe.info
    request = with_preset(Request(""), info)
    height, width = info.config.native_size
    return {
        "width": request.width or width,
        "height": request.height or height,
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "sampler": request.sampler or info.schedule.sampler,
        "schedule": request.schedule or info.schedule.schedule,
    }


class Worker:
    """Worker `number` on a device; None is the fastest."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        settings: Settings,
        number: int,
        load: Load = load,
    ) -> None:
        self._engine, self._catalog, self._settings, self._number = engine, catalog, settings, number
        self._device, self._load = settings.devices[number], load
        self._pipe: Pipeline | None = None
        self._model: str | None = None
        self._last = next(iter(catalog.models))  # that was loaded
        self._sizes = BatchSizes(settings.batch_size)
        self._thread = threading.Thread(target=self._run, name=f"sdxl worker {number}", daemon=True)

    def start(self) -> None:
        """Load the first model and begin to take jobs, in a thread of its own."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for the end of the thread, which comes when the engine is closed."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._use(self._last)
        except Exception as error:
            expected = isinstance(error, SDXLError)
            _LOG.error("the model cannot be loaded: %s", error, exc_info=not expected)
            self._engine.fail(DEVICE_FAULT if is_device_fault(error) else NO_MODEL, str(error))
            return
        while (job := self._engine.take()) is not None:
            if job.kind is None or self._settings.batch_size == 1:
                self._do(job)
            else:
                self._do_with_others(job, job.kind)
            self._go_back()

    def _go_back(self) -> None:
        """Load the last model again where another one could not be loaded and no job waits: the service is ready as
        before.
        """
        if self._pipe is not None or self._engine.waiting or self._engine.is_closing:
            return
        try:
            self._use(self._last)
        except Exception as error:
            _LOG.error("%s cannot be loaded again: %s", self._last, error)
            if is_device_fault(error):
                self._engine.fail(DEVICE_FAULT, str(error))

    def _use(self, name: str) -> Pipeline:
        """The pipeline of a model; the present one goes before another comes."""
        if self._pipe is not None and self._model == name:
            return self._pipe
        self._pipe = self._model = None
        self._engine.has_loaded(self._number, None)
        gc.collect()
        request = self._catalog.models[name]
        self._pipe = self._load(request if self._device is None else replace(request, device=self._device))
        self._model = self._last = name
        self._engine.has_loaded(self._number, name, defaults(self._pipe))
        dtype = str(self._pipe.dtype).removeprefix("torch.")
        _LOG.info("%s is loaded: %s, %s, offload %s", name, self._pipe.device, dtype, self._pipe.offload)
        return self._pipe

    def _do(self, job: Job) -> None:
        with collecting() as warned:
            try:
                status, failure = self._generate(job, warned), None
            except Exception as error:
                status, failure = "failed", self._failure(error, job)
                if is_device_fault(error):
                    self._engine.fail(DEVICE_FAULT, str(error))
        job.update(warnings=tuple(map(self._catalog.message, warned)))
        self._engine.end(job, status, failure)

    def _do_with_others(self, job: Job, kind: str) -> None:
        """Do a job, and with it those that wait and may share its call."""
        self._show_loading(job)
        most = self._sizes.limit(kind, lambda most: self._fitting(job, most))
        jobs = [job, *self._engine.take_like(kind, most - 1)]
        began = time.monotonic()
        self._share(jobs, kind)
        if all(each.state.status == "done" for each in jobs):
            self._sizes.record(kind, len(jobs), time.monotonic() - began)

    def _show_loading(self, job: Job) -> None:
        if self._model != job.work.model:
            job.update(stage="loading")

    def _fitting(self, job: Job, most: int) -> int | None:
        """How many jobs of a kind fit into memory at once; None where that cannot be said."""
        try:
            with collecting():  # the warnings come again with the images
                return self._use(job.work.model).most_images(Request(**job.work.batches[0]), most)
        except Exception:  # which comes again, for the job that it belongs to
            return None

    def _share(self, jobs: Sequence[Job], kind: str) -> None:
        """Do jobs in one call. Where that fails they are done in halves, so that each has its own answer."""
        if len(jobs) == 1:
            self._do(jobs[0])
            return
        works = [job.work for job in jobs]
        try:
            with collecting() as warned:
                self._generate_together(jobs, together(works), warned)
            return
        except Exception as error:
            if is_device_fault(error):
                self._engine.fail(DEVICE_FAULT, str(error))
            if isinstance(error, OutOfMemoryError):
                _LOG.warning("memory ran out with %d jobs at once; going on with fewer", len(jobs))
                self._sizes.halve(kind, len(jobs))
        gc.collect()  # what the error held
        left = [job for job in jobs if not job.state.is_over]
        for part in (left[: len(left) // 2], left[len(left) // 2 :]):
            if part:
                self._share(part, kind)

    def _generate_together(self, jobs: Sequence[Job], arguments: dict[str, Any], warned: list[str]) -> None:
        """The image of each job. One that is cancelled meanwhile ends at once, and its image is left out."""
        for job in jobs:
            job.update(stage="steps" if self._model == job.work.model else "loading", batch=0, step=0, steps=0)
        pipe = self._use(jobs[0].work.model)
        check_plan(pipe.plan(Request(**arguments)), self._settings)
        pace, left = Pace(time.monotonic()), dict(enumerate(jobs))
        for step in pipe.steps(**arguments):
            if step.total:
                self._engine.metrics.add_step()
            now = time.monotonic()
            shows = now - pace.shown >= PREVIEW_SECONDS and not step.is_last
            pace.shown = now if shows else pace.shown
            previews = step.preview() if shows else []
            for number, job in list(left.items()):
                changes = progress(step, pace, now)
                job.update(**changes, **({"preview": strip_of([previews[number]])} if previews else {}))
                keeps = job.is_cancelled and job.keeps_guess
                if (job.is_cancelled or job.skipped == 0) and not (keeps and step.is_last):
                    result = step.result() if keeps else None
                    if keeps:
                        self._engine.metrics.add_images(1, (time.monotonic() - pace.began) / len(jobs))
                    self._end_one(left.pop(number), number, "cancelled" if job.is_cancelled else "done", result, warned)
            if not left:
                return
        result = step.result()
        self._engine.metrics.add_images(len(left), time.monotonic() - pace.began)
        for number, job in left.items():
            self._end_one(job, number, "done", result, warned)

    def _end_one(self, job: Job, number: int, status: Status, result: Result | None, warned: list[str]) -> None:
        """End a job of a shared call, with its image of a result if it is to have one."""
        if result is not None:
            own = slice(number, number + 1)
            from ..pipeline.result import Result

            images = self._images(job, Result(result.images[own], result.seeds[own], result.parameters[own]))
            job.update(images=tuple(images))
        job.update(batch=1, step=0, steps=0, warnings=tuple(map(self._catalog.message, warned)))
        self._engine.end(job, status)

    def _generate(self, job: Job, warned: list[str]) -> Any:
        """All batches of a job; its status after them."""
        self._show_loading(job)
        pipe = self._use(job.work.model)
        for number, arguments in enumerate(job.work.batches):
            job.update(stage="steps", batch=number, step=0, steps=0, preview=None)
            pace = Pace(time.monotonic())
            try:
                given = opened(arguments)
                plan = pipe.plan(Request(**given))
                check_plan(plan, self._settings)
                result = self._call(pipe, job, {**given, **plan.sources.arguments()}, pace)
            except _SkippedError:
                continue
            except _CancelledError:
                return "cancelled"
            images = self._images(job, result)
            self._engine.metrics.add_images(len(images), time.monotonic() - pace.began)
            job.update(
                images=(*job.state.images, *images),
                stage="steps",
                batch=number + 1,
                step=0,
                steps=0,
                preview=None,
                warnings=tuple(map(self._catalog.message, warned)),
            )
            if pace.is_stopped or (job.is_cancelled and number + 1 < len(job.work.batches)):
                return "cancelled"
        return "done"

    def _call(self, pipe: Pipeline, job: Job, arguments: dict[str, Any], pace: Pace) -> Result:
        _look(job)
        return pipe(**arguments, progress=False, callback=lambda step: self._step(job, step, pace))

    def _step(self, job: Job, step: PipelineStep, pace: Pace) -> bool:
        """Show a step; True ends the batch with the guess after it."""
        if step.total:
            self._engine.metrics.add_step()
        now = time.monotonic()
        changes = progress(step, pace, now, job.batches - job.state.batch - 1)
        if now - pace.shown >= PREVIEW_SECONDS and not step.is_last:
            pace.shown = now
            changes["preview"] = strip_of(step.preview())
        job.update(**changes)
        pace.is_stopped = _look(job) and not step.is_last
        return pace.is_stopped

    def _images(self, job: Job, result: Result) -> list[Image]:
        from ..images.record import encode_image

        images = list[Image]()
        for image, seed, recorded in zip(result.images, result.seeds, result.parameters, strict=True):
            number = len(job.state.images) + len(images) + 1
            parameters = self._catalog.public(recorded)
            png = encode_image(image, parameters, "PNG")
            images.append(Image(f"{job.id}-{number}.png", png, seed, image.width, image.height, parameters))
        return images

    def _failure(self, error: Exception, job: Job) -> Failure:
        if self._pipe is None:
            _LOG.error("%s cannot be loaded: %s", job.work.model, error)
        if isinstance(error, MemoryError) and not isinstance(error, SDXLError):
            return Failure(OutOfMemoryError.__name__, "there is too little memory for this; give a smaller size")
        if not isinstance(error, SDXLError):
            _LOG.error("job %s failed", job.id, exc_info=error)
            return Failure("InternalError", f"an unexpected error; the log of the service has it under job {job.id}")
        return Failure(type(error).__name__, self._catalog.message(str(error)), argument_of(error))


def _look(job: Job) -> bool:
    """Whether to end with the present guess. Raises for what is asked meanwhile."""
    if job.is_cancelled and not job.keeps_guess:
        raise _CancelledError
    if job.skipped == job.state.batch:
        raise _SkippedError
    return job.is_cancelled


def is_device_fault(error: BaseException) -> bool:
    """Whether a GPU has failed, so that all work on it fails from now on. Too little memory is no fault."""
    fault = type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)
    return fault and not isinstance(error, (SDXLError, MemoryError)) and "out of memory" not in str(error)
