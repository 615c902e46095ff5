"""One call of a pipeline: its plan is carried out, and its steps become images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..images.pixels import to_pil
from ..runtime.memory import is_out_of_memory
from .callback import Callback, check_callback, stops
from .generators import Generators
from .latents import Latents, decode_preview
from .loop import run
from .metadata import describe
from .model import Model
from .plan import Plan
from .replay import with_notes
from .residency import Residency
from .result import Output, PipelineStep, Result, with_text


@dataclass(frozen=True)
class Call:
    """`plan` is what to generate on the model in `residency`; `source` says how that was loaded, and `prepare` has its
    weights changed as the plan asks for. `generators` draw the noise in place of the plan's seeds. The thread that
    holds the `lock` may use the model.
    """

    plan: Plan
    residency: Residency
    source: Callable[[], Mapping[str, Any]]
    prepare: Callable[[], None]
    lock: AbstractContextManager[Any]
    generators: Generators | None = None

    def result(self, output: Output, progress: bool, callback: Callback | None) -> Result:
        """All steps, and the images. Raises `ArgumentError` before any work is done, and what the callback raises."""
        self._check_output(output)
        if callback is not None:
            check_callback(callback)
        with self.lock:
            self.prepare()
            self.residency.fit(self.plan)
            outcome = self.residency.retry(lambda model: self._generate(model, output, progress, callback))
        if isinstance(outcome, Result):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # else it would keep this frame, and so the model, which has it

    def steps(self) -> Generator[PipelineStep, None, None]:
        """The steps with their results, none at the same time as another thread's; `OutOfMemoryError` for all of
        torch's words for it.
        """
        with self.lock:
            self.prepare()
            self.residency.fit(self.plan)
            return self._locked(self._run(self.residency.model), self.residency.revision)

    def _locked(self, steps: Iterator[PipelineStep], revision: int) -> Generator[PipelineStep, None, None]:
        """The steps, as long as the weights are of that revision: also where the first one is asked for much later."""
        step: PipelineStep | None = None
        while True:
            try:
                with self.lock:
                    if step is None or not step.is_last:
                        self._check_revision(revision)
                    step = next(steps, None)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise self.residency.shortage(str(error)) from error
            if step is None:
                return
            yield self._with_result(step)

    def _check_revision(self, revision: int) -> None:
        if self.residency.revision != revision:
            raise ArgumentError(
                "the weights have changed since these steps began (by LoRAs, embeddings, change_weights or to); begin "
                "again, and change them between calls"
            )

    def _run(self, model: Model) -> Generator[PipelineStep, None, None]:
        generators = None if self.generators is None else self.generators.each
        return run(self.plan, model, Latents(model, self.residency.room), generators)

    def _generate(self, model: Model, output: Output, progress: bool, callback: Callback | None) -> Result | Exception:
        """The result; or an exception of the callback, which is no reason to try again with less in memory."""
        if self.generators is not None:
            self.generators.rewind()
        steps, revision = self._run(model), self.residency.revision
        with closing(steps), _bar(self.plan.total_steps if progress else None) as advance:
            for step in steps:
                advance(int(step.total > 0))
                try:
                    if callback is not None and stops(callback(self._with_result(step))):
                        break
                    if not step.is_last:
                        self._check_revision(revision)
                except Exception as error:
                    return error
        return self._finish(model, step, output)

    def _with_result(self, step: PipelineStep) -> PipelineStep:
        model = self.residency.model
        decode = None if model.preview is None else self._preview
        return replace(step, finish=self._result, vae=model.info.config.vae, decode=decode)

    def _preview(self, latents: Tensor) -> Tensor | None:
        with self.lock:
            preview = self.residency.model.preview
            return None if preview is None else decode_preview(preview(), latents)

    def _result(self, step: PipelineStep, output: Output) -> Result:
        """The result of a step, whenever the caller asks for it."""
        self._check_output(output)
        with self.lock:
            return self.residency.retry(lambda model: self._finish(model, step, output))

    def _finish(self, model: Model, step: PipelineStep, output: Output) -> Result:
        """The images of a step: the finished ones, or the guess of the clean ones."""
        plan, given = self.plan, self.generators
        latents, stopped = (step.latents, None) if step.is_last else (step.denoised, step.index + 1)
        reason = None if given is None else given.reason
        parameters = with_notes(describe(plan, self.source(), model.placement), stopped, reason)
        seeds = [None if reason else seed for seed in plan.seeds]
        if output == "latent":
            return Result(latents.clone(), seeds, parameters)  # the caller's own: a sampler may need the step's again
        images = Latents(model, self.residency.room).finish(plan, latents)
        if output == "tensor":
            return Result(torch.stack(images), seeds, parameters)
        return Result(
            with_text(
                [to_pil(image[None], plan.request.conventions.pixels == "cut")[0] for image in images], parameters
            ),
            seeds,
            parameters,
        )

    def _check_output(self, output: Output) -> None:
        if output not in get_args(Output):
            raise ArgumentError(f"output is {output!r}; it must be pil, tensor or latent")
        sizes = {canvas.result_size for canvas in self.plan.canvases if self.plan.pastes}
        if output == "tensor" and len(sizes) > 1:
            raise ArgumentError(f"images of different sizes {sorted(sizes)} are no tensor; use output='pil'")


@contextmanager
def _bar(total: int | None) -> Iterator[Callable[[int], object]]:
    """What counts steps on the terminal; nothing for None, and in a program without one (pythonw, a service). tqdm
    makes a lock for all processes even where it shows nothing, of which Python then warns in the workers of a pool.
    """
    if total is None or sys.stderr is None:
        yield lambda count: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit="step") as bar:
        yield bar.update
