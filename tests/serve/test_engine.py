"""The engine and its workers, without HTTP and without a network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake import FakePipe, loader
from serving import until

from sdxl.errors import ArgumentError, CheckpointError, OutOfMemoryError
from sdxl.pipeline import ModelRequest
from sdxl.serve import catalog as catalog_module
from sdxl.serve import engine as engine_module
from sdxl.serve.catalog import make_catalog
from sdxl.serve.job import Job
from sdxl.serve.refusals import BusyError, ClosingError, UnknownError
from sdxl.serve.service import Service, make_service
from sdxl.serve.settings import Settings
from sdxl.serve.worker import DEVICE_FAULT, NO_MODEL, is_device_fault

Load = Callable[[ModelRequest], Any]


def start(load: Load, **settings: Any) -> Service:
    settings = {"port": 0, "devices": ("cpu",)} | settings
    service = make_service(
        Settings(**settings), make_catalog([ModelRequest(name) for name in ("one", "two", "three")]), load
    )
    service.start()
    return service


def submit(service: Service, prompt: str = "a", **given: Any) -> Job:
    own = {name: given.pop(name) for name in ("batches", "model", "session") if name in given}
    return service.engine.submit(service.make_work({"prompt": prompt, **given}, **own))


def over(job: Job) -> str:
    until(lambda: job.state.is_over)
    return job.state.status


class Gate:
    """Lets through as many steps as are given."""

    def __init__(self) -> None:
        self._steps = threading.Semaphore(0)

    def __call__(self) -> None:
        assert self._steps.acquire(timeout=20)

    def let(self, steps: int = 1000) -> None:
        self._steps.release(steps)


def test_jobs_run_in_their_order_and_know_their_place() -> None:
    gate = Gate()
    pipe = FakePipe(go=gate)
    service = start(loader(pipe))
    jobs = [submit(service, f"{n}") for n in range(4)]
    until(lambda: jobs[0].state.status == "running")
    assert [job.state.place for job in jobs[1:]] == [0, 1, 2]
    service.engine.cancel(jobs[2].id)
    assert (jobs[2].state.status, jobs[3].state.place) == ("cancelled", 1)
    gate.let()
    assert [over(job) for job in jobs] == ["done", "done", "cancelled", "done"]
    assert [call["prompt"] for call in pipe.calls] == ["0", "1", "3"]
    assert service.engine.jobs() == jobs
    service.engine.close()


def test_a_full_queue_says_when_to_ask_again() -> None:
    gate = Gate()
    service = start(loader(FakePipe(go=gate)), queue=2)
    first = submit(service)
    until(lambda: first.state.status == "running")
    jobs = [submit(service), submit(service)]
    with pytest.raises(BusyError, match="the queue is full: 2 jobs wait") as raised:
        submit(service)
    assert raised.value.seconds >= 1
    gate.let()
    assert {over(job) for job in (first, *jobs)} == {"done"}
    assert over(submit(service)) == "done"
    service.engine.close()


def test_uploads_that_wait_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdxl.serve.uploads import Upload

    monkeypatch.setattr(engine_module, "_WAITING_BYTES", 1000)
    gate = Gate()
    service = start(loader(FakePipe(go=gate)))
    first = submit(service)
    until(lambda: first.state.status == "running")
    job = submit(service, image=Upload(b"x" * 600), strength=0.5)
    with pytest.raises(BusyError):
        submit(service, image=Upload(b"x" * 600))
    service.engine.cancel(job.id)
    assert not job.work.bytes
    gate.let()
    over(first)
    service.engine.close()


def test_cancel_ends_a_job_before_its_next_step_and_keeps_what_is_finished() -> None:
    gate = Gate()
    pipe = FakePipe(go=gate)
    service = start(loader(pipe))
    job = submit(service, steps=3, batches=3, seed=5)
    gate.let(4)
    until(lambda: (job.state.batch, job.state.step) == (1, 1))
    assert job.progress == pytest.approx(4 / 9)
    assert job.state.seconds_left is not None
    service.engine.cancel(job.id)
    gate.let(1)
    assert over(job) == "cancelled"
    assert [image.seed for image in job.state.images] == [5]
    assert len(pipe.calls) == 2
    service.engine.cancel(job.id)
    service.engine.skip(job.id)
    gate.let()
    assert over(submit(service)) == "done"  # no effect on the next one
    service.engine.close()


def test_a_cancelled_job_may_keep_the_present_guess() -> None:
    gate = Gate()
    service = start(loader(FakePipe(go=gate)))
    job = submit(service, steps=5, batches=2)
    gate.let(2)
    until(lambda: job.state.step == 2)
    service.engine.cancel(job.id, keep_guess=True)
    gate.let(1)
    assert over(job) == "cancelled"
    assert [image.parameters["stopped"] for image in job.state.images] == [3]
    service.engine.close()


def test_skip_leaves_one_batch_out() -> None:
    gate = Gate()
    pipe = FakePipe(go=gate)
    service = start(loader(pipe))
    job = submit(service, steps=2, batches=3, seed=7, num_images=2)
    gate.let(3)
    until(lambda: (job.state.batch, job.state.step) == (1, 1))
    service.engine.skip(job.id)
    gate.let()
    assert over(job) == "done"
    assert [image.seed for image in job.state.images] == [7, 8, 11, 12]
    assert [call["seed"] for call in pipe.calls] == [7, 9, 11]
    service.engine.close()


def test_two_workers_take_from_one_queue() -> None:
    both = threading.Barrier(2)
    pipes: list[FakePipe] = []

    def load(request: ModelRequest) -> Any:
        pipes.append(FakePipe(go=lambda: both.wait(20)))
        return pipes[-1]

    service = start(load, devices=("cpu", "cpu"))
    jobs = [submit(service, steps=1) for _ in range(2)]  # each step waits for one of the other worker
    assert [over(job) for job in jobs] == ["done", "done"]
    assert [len(pipe.calls) for pipe in pipes] == [1, 1]
    assert service.engine.loaded == ["one", "one"]
    service.engine.close()


def test_a_switch_is_a_job_and_one_model_is_in_memory() -> None:
    alive: list[str] = []

    def load(request: ModelRequest) -> Any:
        pipe = FakePipe(str(request.model))
        alive.append(pipe.model)
        return pipe

    service = start(load)
    assert over(submit(service, model="two")) == "done"
    assert over(submit(service)) == "done"  # the default is still the first
    assert alive == ["one", "two", "one"]
    switch = service.switch("two.safetensors")
    assert over(switch) == "done"
    assert (service.engine.loaded, service.model) == (["two"], "two")
    assert over(job := submit(service)) == "done"
    assert job.state.images[0].parameters["model"] == {"model": "two"}
    assert alive == ["one", "two", "one", "two"]
    with pytest.raises(UnknownError, match="there are one, two, three"):
        service.switch("four")
    service.engine.close()


def test_a_model_that_cannot_be_loaded_fails_its_job_alone() -> None:
    def load(request: ModelRequest) -> Any:
        if request.model == "two":
            raise CheckpointError("/secret/folder/two.safetensors is damaged; download it again")
        return FakePipe()

    service = start(load)
    switch = service.switch("two")
    assert over(switch) == "failed"
    failure = switch.state.failure
    assert failure is not None
    assert failure.message == "two.safetensors is damaged; download it again"
    assert service.model == "one"
    assert over(submit(service)) == "done"
    service.engine.close()


def test_a_service_is_ready_again_after_a_model_that_cannot_be_loaded(caplog: pytest.LogCaptureFixture) -> None:
    """By itself: where /ready decides who gets requests, none would come that loads the model."""
    calls = list[str]()

    def load(request: ModelRequest) -> Any:
        calls.append(str(request.model))
        if request.model == "two":
            raise CheckpointError("two is damaged; download it again")
        return FakePipe()

    service = start(load)
    until(lambda: service.engine.is_ready)
    assert over(service.switch("two")) == "failed"
    until(lambda: service.engine.is_ready)
    assert (calls, service.engine.loaded) == (["one", "two", "one"], ["one"])
    assert "two cannot be loaded: two is damaged" in caplog.text
    service.engine.close()


def test_switches_that_fail_or_are_cancelled_leave_the_model_before() -> None:
    gate = Gate()

    def load(request: ModelRequest) -> Any:
        if request.model == "two":
            raise CheckpointError("two is damaged; download it again")
        return FakePipe(go=gate)

    service = start(load)
    job = submit(service)
    until(lambda: job.state.status == "running")
    switches = [service.switch("two"), service.switch("two")]
    gate.let()
    assert [over(each) for each in switches] == ["failed", "failed"]
    assert service.model == "one"
    held = Gate()
    gate._steps = held._steps
    job = submit(service)
    until(lambda: job.state.status == "running")
    switch = service.switch("two")
    assert service.model == "two"
    service.engine.cancel(switch.id)
    assert service.model == "one"
    held.let()
    assert over(job) == "done"
    service.engine.close()


@pytest.mark.parametrize(
    ("switches", "cancelled", "left"),
    [
        (("two", "two"), (0,), "two"),  # the other client's still comes
        (("two", "three"), (1,), "two"),
        (("two", "three", "two"), (2, 0), "three"),
        (("two", "three"), (1, 0), "one"),
        (("two", "one", "three"), (2,), "one"),
    ],
)
def test_clients_that_switch_at_once(switches: tuple[str, ...], cancelled: tuple[int, ...], left: str) -> None:
    """The last switch that is neither cancelled nor failed counts, while they wait and when they are done."""
    gate = Gate()
    service = start(loader(FakePipe(go=gate)))
    job = submit(service)
    until(lambda: job.state.status == "running")
    jobs = [service.switch(model) for model in switches]
    for number in cancelled:
        service.engine.cancel(jobs[number].id)
    assert service.model == left
    gate.let()
    assert {over(each) for each in jobs} <= {"done", "cancelled"}
    assert service.model == left
    assert over(switch := service.switch("two")) == "done"
    assert (service.model, switch.work.model) == ("two", "two")
    service.engine.close()


def test_errors_of_a_job_are_its_own() -> None:
    pipe = FakePipe(error=ArgumentError("steps is 0; expected 1"))
    service = start(loader(pipe))
    kinds = {
        "ArgumentError": pipe.error,
        "OutOfMemoryError": MemoryError(),
        "InternalError": RuntimeError("/secret/path"),
    }
    for name, error in kinds.items():
        pipe.error = error
        job = submit(service, "error")
        assert over(job) == "failed"
        assert job.state.failure is not None
        assert job.state.failure.type == name
        assert "secret" not in job.state.failure.message
    assert over(submit(service)) == "done"
    assert service.engine.metrics.failures == dict.fromkeys(kinds, 1)
    assert service.engine.fault is None
    service.engine.close()


def test_a_failed_gpu_ends_the_process_and_gives_up_what_waits() -> None:
    gate, faults = Gate(), []
    pipe = FakePipe(go=gate, error=RuntimeError("CUDA error: an illegal memory access was encountered"))
    service = start(loader(pipe))
    service.engine.on_fault(lambda: faults.append(service.engine.fault))
    first, second, third = submit(service), submit(service, "error"), submit(service)
    gate.let()
    assert [over(job) for job in (first, second, third)] == ["done", "failed", "failed"]
    assert third.state.failure is not None
    assert third.state.failure.type == "ClosingError"
    until(lambda: faults)
    assert faults[0] is not None
    assert faults[0][0] == DEVICE_FAULT == 70
    with pytest.raises(ClosingError):
        submit(service)


def test_too_little_memory_and_errors_of_requests_are_no_fault_of_a_gpu() -> None:
    assert is_device_fault(RuntimeError("CUDA error: device-side assert triggered"))
    if hasattr(torch, "AcceleratorError"):  # of newer versions
        assert is_device_fault(torch.AcceleratorError("unspecified launch failure"))
    assert not is_device_fault(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_device_fault(RuntimeError("CUDA error: out of memory"))
    assert not is_device_fault(OutOfMemoryError("CUDA error"))
    assert not is_device_fault(ValueError("NaN"))


def test_a_first_model_that_cannot_be_loaded_ends_the_process() -> None:
    def load(request: ModelRequest) -> Any:
        raise CheckpointError("one does not exist")

    service = start(load)
    until(lambda: service.engine.fault)
    assert service.engine.fault == (NO_MODEL, "one does not exist")
    assert not service.engine.is_ready


def test_what_is_kept_of_finished_jobs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    service = start(loader(FakePipe()), keep=3)
    jobs = [submit(service) for _ in range(6)]
    assert {over(job) for job in jobs} == {"done"}
    until(lambda: not service.engine.running)
    assert service.engine.jobs() == jobs[3:]
    with pytest.raises(UnknownError, match="there is no job of this id"):
        service.engine.get(jobs[0].id)
    monkeypatch.setattr(engine_module, "_KEPT_BYTES", jobs[4].bytes + jobs[5].bytes)
    assert service.engine.jobs() == jobs[4:]
    monkeypatch.setattr(engine_module, "_KEPT_SECONDS", 0.0)
    time.sleep(0.01)
    assert service.engine.jobs() == []
    service.engine.close()


def test_a_job_that_ends_late_is_kept_as_long_as_one_that_ends_early() -> None:
    """Whoever cancels what waits behind a job must not lose the images of that one."""
    gate = Gate()
    service = start(loader(FakePipe(go=gate)), keep=2)
    first, *others = (submit(service) for _ in range(4))
    until(lambda: first.state.status == "running")
    for job in others:
        service.engine.cancel(job.id)
    assert service.engine.jobs() == [first, *others[1:]]
    gate.let()
    assert over(first) == "done"
    assert service.engine.jobs() == [first, others[2]]
    service.engine.close()


def test_the_newest_images_are_kept_whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could get those of a job that is forgotten when it ends."""
    monkeypatch.setattr(engine_module, "_KEPT_BYTES", 1)
    service = start(loader(FakePipe()))
    jobs = [submit(service) for _ in range(2)]
    assert [over(job) for job in jobs] == ["done", "done"]
    until(lambda: not service.engine.running)
    assert service.engine.jobs() == jobs[1:]
    service.engine.close()


def test_a_clock_that_is_set_forgets_no_job_and_sends_no_client_away(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    service = start(loader(FakePipe(go=gate)))
    job = submit(service)
    until(lambda: job.state.status == "running")
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 1e6)
    gate.let()
    assert over(job) == "done"
    until(lambda: not service.engine.running)
    assert service.engine.patience < 100
    monkeypatch.setattr(time, "time", lambda: clock() + 2e6)
    assert service.engine.jobs() == [job]
    service.engine.close()


def test_sessions_see_their_own_jobs() -> None:
    service = start(loader(FakePipe()))
    mine, others, none = (submit(service, session=session) for session in ("mine", "others", None))
    assert [service.engine.jobs(each) for each in ("mine", "others", None, "x")] == [[mine], [others], [none], []]
    service.engine.close()


def test_the_end_gives_up_what_waits_and_finishes_what_runs() -> None:
    gate = Gate()
    service = start(loader(FakePipe(go=gate)))
    first, second = submit(service), submit(service)
    until(lambda: first.state.status == "running")
    service.engine.close()
    assert second.state.status == "failed"
    assert not service.engine.wait_idle(0.01)
    gate.let()
    assert over(first) == "done"
    assert service.engine.wait_idle(5)
    service.workers[0].join(5)
    with pytest.raises(ClosingError):
        submit(service)


def test_a_watcher_sees_each_change_until_it_ends() -> None:
    gate = Gate()
    service = start(loader(FakePipe(go=gate)))
    job = submit(service, steps=2)
    seen: list[Any] = []
    unwatch = job.watch(lambda: seen.append(job.state.step))
    gate.let()
    assert over(job) == "done"
    until(lambda: not service.engine.running)
    assert {1, 2} <= {*seen}
    count = len(seen)
    unwatch()
    job.update(step=9)
    assert len(seen) == count
    service.engine.close()


def test_folders_are_read_while_the_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the first client that asks for a list does not wait for thousands of headers."""
    (tmp_path / "a.safetensors").write_bytes(b"none")
    read, loading = list[Path](), threading.Event()
    monkeypatch.setattr(catalog_module, "read_kind", read.append)
    folders = {"lora_dir": tmp_path, "control_dir": tmp_path}

    def load(request: ModelRequest) -> Any:
        assert loading.wait(20)
        return FakePipe()

    service = make_service(Settings(port=0), make_catalog([ModelRequest("one", **folders)]), load)
    service.start()
    until(lambda: len(read) == 4)  # LoRAs; controls, references and upscalers of one folder
    assert not service.engine.is_ready and set(read) == {tmp_path / "a.safetensors"}
    loading.set()
    service.engine.close()
