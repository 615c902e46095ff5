"""Jobs that share a call: which ones, and that each has its own image, progress and end."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import until

import sdxl
from sdxl.cli.serve import _settings, serve_parser
from sdxl.errors import ArgumentError, CheckpointError, NonFiniteError, OutOfMemoryError
from sdxl.pipeline import ModelRequest
from sdxl.serve.catalog import make_catalog
from sdxl.serve.job import Job
from sdxl.serve.service import Service, make_service
from sdxl.serve.settings import Settings
from sdxl.serve.sharing import kind_of
from sdxl.serve.uploads import read_upload

SCENE = {"width": 64, "height": 64, "steps": 2}
Steps = Callable[..., Iterator[Any]]


def service_of(pipe: sdxl.Pipeline, batch_size: int | None) -> Service:
    """A service that has not begun to work."""
    settings = Settings(port=0, devices=("cpu",), batch_size=batch_size)
    return make_service(settings, make_catalog([ModelRequest("one")]), lambda _: pipe)


def submit(service: Service, prompt: Any = "a cat", **given: Any) -> Job:
    batches = given.pop("batches", 1)
    return service.engine.submit(service.make_work({"prompt": prompt, **SCENE, **given}, batches))


def finish(service: Service, *jobs: Job) -> list[str]:
    service.start()
    until(lambda: all(job.state.is_over for job in jobs))
    service.engine.close()
    return [job.state.status for job in jobs]


def calls_of(pipe: sdxl.Pipeline, monkeypatch: pytest.MonkeyPatch, fails: Callable[[list[str]], Any]) -> list[int]:
    """How many images each shared call of a pipeline has from now on. It raises what `fails` gives of its prompts."""
    steps, counts = pipe.steps, list[int]()

    def noted(self: sdxl.Pipeline, prompt: list[str], **arguments: Any) -> Iterator[Any]:
        counts.append(len(prompt))
        if (error := fails(prompt)) is not None:
            raise error
        return steps(prompt, **arguments)

    monkeypatch.setattr(sdxl.Pipeline, "steps", noted)
    return counts


def check_alone(pipe: sdxl.Pipeline, job: Job, prompt: str, **given: Any) -> None:
    """The image of a job is that of a call of its own."""
    (image,) = job.state.images
    alone = pipe(prompt, **SCENE, seed=image.seed, **given, progress=False)
    with Image.open(io.BytesIO(image.png)) as own:
        assert np.abs(np.asarray(own).astype(int) - np.asarray(alone.images[0]).astype(int)).max() <= 1
    assert image.parameters["request"] == alone.parameters[0]["request"]


def test_waiting_jobs_that_differ_in_texts_and_seeds_share_a_call(
    tiny_pipe: sdxl.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = calls_of(tiny_pipe, monkeypatch, lambda _: None)
    service = service_of(tiny_pipe, 3)
    data = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(data, "PNG")
    given: list[dict[str, Any]] = [
        {"prompt": "a cat", "seed": 1},
        {"prompt": "a dog", "guidance_scale": 2.0, "seed": 4},
        {"prompt": "a dog"},
        {"prompt": "a bird", "image": [read_upload(data.getvalue(), "image", 10**6)], "strength": 1.0},
        {"prompt": "a house", "seed": 9},
        {"prompt": "a tree", "seed": 2},
        {"prompt": "a tree", "negative_prompt": "a cat"},
        {"prompt": "a man", "batches": 2, "seed": 3},
        {"prompt": "a cloud", "guidance_scale": 2.0},
    ]
    jobs = [submit(service, **each) for each in given]
    assert finish(service, *jobs) == ["done"] * len(jobs)
    assert counts == [3, 2]
    assert [len(job.state.images) for job in jobs] == [1] * 7 + [2, 1]
    for number in (0, 1, 2, 4, 5, 6, 8):
        check_alone(tiny_pipe, jobs[number], **{k: v for k, v in given[number].items() if k != "seed"})


def test_a_job_that_may_share_shows_that_its_model_is_loaded(tiny_pipe: sdxl.Pipeline) -> None:
    """And where that fails, the jobs after it share as before."""
    go, failures = threading.Semaphore(0), [CheckpointError("two is damaged; download it again")] * 2

    def load(request: ModelRequest) -> sdxl.Pipeline:
        if request.model == "two":
            assert go.acquire(timeout=20)
            if failures:
                raise failures.pop()
        return tiny_pipe

    catalog = make_catalog([ModelRequest("one"), ModelRequest("two")])
    service = make_service(Settings(port=0, devices=("cpu",), batch_size=2), catalog, load)
    service.start()
    arguments = {"prompt": "a cat", **SCENE}
    job = service.engine.submit(service.make_work(arguments, model="two"))
    until(lambda: job.state.stage == "loading")
    go.release(4)
    until(lambda: job.state.is_over)
    jobs = [service.engine.submit(service.make_work(arguments, model="two")) for _ in range(2)]
    until(lambda: all(each.state.is_over for each in jobs))
    service.engine.close()
    assert (job.state.status, *(each.state.status for each in jobs)) == ("failed", "done", "done")
    assert job.kind is not None and service.workers[0]._sizes.limit(job.kind, lambda _: None) == 2


def test_jobs_share_no_call_unless_it_is_asked_for(tiny_pipe: sdxl.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = calls_of(tiny_pipe, monkeypatch, lambda _: None)
    service = service_of(tiny_pipe, 1)
    assert finish(service, submit(service), submit(service)) == ["done"] * 2
    assert not counts


def test_the_number_is_found_by_trial(tiny_pipe: sdxl.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = calls_of(tiny_pipe, monkeypatch, lambda _: None)
    service = service_of(tiny_pipe, None)
    sizes = service.workers[0]._sizes
    record, seen = sizes.record, list[int]()

    def noted(kind: str, count: int, seconds: float) -> None:
        seen.append(count)
        record(kind, count, 1.0)  # as if several images took as long as one

    monkeypatch.setattr(sizes, "record", noted)
    jobs = [submit(service) for _ in range(10)]
    assert finish(service, *jobs) == ["done"] * 10
    until(lambda: len(seen) == 5)  # the last one is recorded after its jobs are over
    assert seen == [1, 1, 2, 2, 4] and counts == [2, 2, 4]


@pytest.mark.parametrize("error", [OutOfMemoryError("memory ran out"), NonFiniteError("NaN")])
def test_a_call_that_fails_is_done_in_halves(
    error: Exception, tiny_pipe: sdxl.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(prompts: list[str]) -> Exception | None:
        too_many = isinstance(error, OutOfMemoryError) and len(prompts) > 2
        return error if too_many or (isinstance(error, NonFiniteError) and "bad" in prompts) else None

    counts = calls_of(tiny_pipe, monkeypatch, fails)
    service = service_of(tiny_pipe, 5)
    jobs = [submit(service, text) for text in ("a", "b", "c", "bad", "d", "e")]
    assert finish(service, *jobs) == ["done"] * 6
    assert counts == [5, 2, 3, 2]
    check_alone(tiny_pipe, jobs[2], "c")


def test_a_job_of_a_shared_call_is_cancelled_alone(tiny_pipe: sdxl.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    service, steps = service_of(tiny_pipe, 6), tiny_pipe.steps
    jobs = [submit(service, text) for text in ("a", "b", "c", "d", "e", "f")]

    def cancelling(self: sdxl.Pipeline, **arguments: Any) -> Iterator[Any]:
        for step in steps(**arguments):
            early, guessed = (jobs[4], jobs[5]) if step.is_last else (jobs[1], jobs[2])
            service.engine.cancel(early.id)
            service.engine.cancel(guessed.id, keep_guess=True)
            yield step

    monkeypatch.setattr(sdxl.Pipeline, "steps", cancelling)
    assert finish(service, *jobs) == ["done", "cancelled", "cancelled", "done", "cancelled", "done"]
    assert [len(job.state.images) for job in jobs] == [1, 0, 1, 1, 0, 1]
    assert service.engine.metrics.images == 4
    assert [job.state.images[0].parameters.get("stopped_after") for job in (jobs[2], jobs[5])] == [1, None]
    monkeypatch.undo()
    check_alone(tiny_pipe, jobs[3], "d")


def test_what_cannot_share_a_call(tiny_pipe: sdxl.Pipeline) -> None:
    service = service_of(tiny_pipe, 4)

    def kind(prompt: Any = "a", **given: Any) -> str | None:
        return kind_of(service.make_work({"prompt": prompt, **given}))

    assert kind() == kind("b", seed=3) is not None
    assert kind(["a", "b"]) is kind(num_images=2) is None
    assert kind(compat={"profile": "diffusers", "batch": [1, 2, 1]}) is None  # of an image that was one of two
    others = [
        kind(steps=3),
        kind(sampler="ddim"),
        kind(negative_prompt=""),
        kind(variation_seed=1),
        kind(hires={"scale": 2}),
    ]
    assert len({kind(), *others}) == 6


@pytest.mark.parametrize(("flags", "size"), [([], 1), (["--batch-size", "4"], 4), (["--batch-size", "auto"], None)])
def test_the_command_takes_the_number(flags: list[str], size: int | None) -> None:
    assert _settings(serve_parser().parse_args(flags)).batch_size == size


def test_a_number_that_cannot_be() -> None:
    with pytest.raises(ArgumentError, match="--batch-size is 0; expected a number of at least 1, or auto"):
        _settings(serve_parser().parse_args(["--batch-size", "0"]))
