"""What works in the child of a fork, and what is an error because it would wait for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from sdxl.runtime.lazy import Lazy
from sdxl.runtime.locks import Lock, Turns

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
QUICK: dict[str, Any] = {"steps": 1, "seed": 1, "progress": False, "width": 64, "height": 64}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of torch are lost in a child, also where OMP_NUM_THREADS asks for more of them."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


def in_child(work: Callable[[], object]) -> str:
    """What became of some work in a forked process: "done", its error, or "waits" after some seconds."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        signal.signal(signal.SIGALRM, lambda *_: (os.write(writer, b"waits"), os._exit(1)))
        signal.alarm(15)
        try:
            work()
            os.write(writer, b"done")
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        return file.read().decode()


@contextmanager
def another_thread_in(lock: Lock) -> Iterator[None]:
    """A thread that holds a lock."""
    inside, stop = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            inside.set()
            stop.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_child_generates(tiny_pipe: Any) -> None:
    assert in_child(lambda: tiny_pipe("cat", **QUICK)) == "done"


def test_a_child_of_a_process_that_generates(tiny_pipe: Any) -> None:
    """Its locks in Python are free, but those in torch's libraries may be held for ever."""
    with another_thread_in(tiny_pipe._lock):
        outcome = in_child(lambda: tiny_pipe("cat", **QUICK))
        assert outcome.startswith("ForkError: this process was forked while another thread worked with a model; ")
        assert in_child(lambda: tiny_pipe.unet) == "done"
    assert in_child(lambda: tiny_pipe("cat", **QUICK)) == "done"
    tiny_pipe("cat", **QUICK)


def test_a_child_of_a_thread_that_is_at_work_itself(tiny_pipe: Any) -> None:
    with tiny_pipe._lock:
        assert in_child(lambda: tiny_pipe("cat", **QUICK)) == "done"


def test_a_child_has_lost_the_threads_of_torch(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They compute for the thread that has started them: another one gets its own."""
    turns = Turns()

    def enter() -> None:
        with turns:
            pass

    def one_thread() -> None:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        tiny_pipe("cat", **QUICK)

    outcomes = []

    def at_work() -> None:
        enter()
        outcomes.extend([in_child(enter), in_child(one_thread)])

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    thread = threading.Thread(target=at_work)  # so that the main thread of these tests does not remember it
    thread.start()
    thread.join()
    assert outcomes[0].startswith("ForkError: this process was forked after torch had computed in 2 threads")
    assert "spawn" in outcomes[0] and "torch.set_num_threads(1)" in outcomes[0]
    assert outcomes[1] == "done"


def test_what_is_loaded_by_a_lost_thread_is_loaded_again() -> None:
    lazy = Lazy(lambda: 3)
    with another_thread_in(lazy._lock):
        assert in_child(lazy) == "done"


def test_a_lock_that_the_forking_thread_holds_is_kept() -> None:
    lock = Lock()

    def leave() -> None:
        with lock:
            pass
        lock.__exit__()

    with lock:
        assert in_child(leave) == "done"


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_no_child_waits_for_ever(threads: int) -> None:
    """In processes of their own, with torch's real threads."""
    code = """
import os, threading, time
import sdxl
from sdxl.runtime import locks
pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
threading.Thread(target=lambda: pipe("cat", steps=999, seed=1, progress=False), daemon=True).start()
while not locks._at_work:
    time.sleep(0.01)
time.sleep(0.5)
if not (child := os.fork()):
    try:
        pipe("cat", steps=1, seed=1, progress=False)
    except sdxl.ForkError:
        os._exit(3)
    finally:
        os._exit(4)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert run.stdout == "3\n", run.stderr
