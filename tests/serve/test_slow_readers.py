"""Clients that do not read their answers: they hold little memory, and not for long."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from fake import FakePipe, loader
from serving import Running, serving, until

from sdxl.pipeline import ModelRequest
from sdxl.serve.job import Job
from sdxl.serve.settings import MIB
from sdxl.serve.work import Work

SIZE = 16 * MIB  # far more than the system's buffers of a connection
READERS = 12


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving([ModelRequest("one")], loader(FakePipe()), read_seconds=2.0) as running:
        yield running


@pytest.fixture(scope="module")
def image(running: Running) -> tuple[str, bytes]:
    """The address and the content of a large image."""
    job = running.service.engine.get(running.client.done(running.client.job(prompt="a")["id"])["id"])
    data = os.urandom(SIZE)
    job.update(images=(replace(job.state.images[0], png=data),))
    return f"/api/files/{job.state.images[0].name}", data


def ask(running: Running, path: str) -> socket.socket:
    """A connection that has asked for something, and has small buffers."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", running.client.port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


def rest(connection: socket.socket) -> int:
    """The bytes that still come, until the connection ends."""
    count = 0
    try:
        while part := connection.recv(65536):
            count += len(part)
    except ConnectionError:
        pass
    return count


def memory() -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_an_answer_in_pieces_is_the_same(running: Running, image: tuple[str, bytes]) -> None:
    path, data = image
    answer = running.client.get(path)
    assert answer.body == data
    assert answer.headers["content-length"] == str(SIZE)
    assert running.client.ask("HEAD", path).headers.get("content-length") in (None, str(SIZE))


@pytest.mark.slow
def test_a_slow_reader_gets_all_of_it(running: Running, image: tuple[str, bytes]) -> None:
    """Slower than `read_seconds` together, but it reads on."""
    path, data = image
    with ask(running, path) as connection:
        began, got = time.monotonic(), bytearray()
        for part in range(8):
            time.sleep(0.3)
            while len(got) < SIZE * (part + 1) // 8:
                got += connection.recv(65536)
    assert time.monotonic() - began > 2.0
    assert bytes(got[-SIZE:]).endswith(data[-1000:])


@pytest.mark.slow
def test_who_does_not_read_holds_little(running: Running, image: tuple[str, bytes]) -> None:
    answered = running.service.engine.metrics.requests
    before, wanted = memory() if Path("/proc/self/status").exists() else 0, answered["200"] + READERS
    with ExitStack() as stack:
        connections = [stack.enter_context(ask(running, image[0])) for _ in range(READERS)]
        time.sleep(0.7)
        assert not before or memory() - before < SIZE  # not one of the images more
        until(lambda: answered["200"] == wanted)
        assert all(rest(each) < SIZE for each in connections)  # what the system holds
    assert running.client.get("/health").status == 200


@pytest.mark.slow
def test_events_that_nobody_reads(running: Running) -> None:
    """The stream ends, and with it what it watches. Between two reads only the newest state counts."""
    job = Job(Work((), "one"))
    running.service.engine._jobs[job.id] = job
    job.update(status="running", steps=1000)
    with ask(running, f"/api/jobs/{job.id}/events") as connection:
        until(lambda: job._watchers)
        before, sent = memory() if Path("/proc/self/status").exists() else 0, 0
        end = time.monotonic() + 20
        while job._watchers and time.monotonic() < end:
            sent += 1
            job.update(step=sent, preview=os.urandom(100_000))
            time.sleep(0.005)
        assert not job._watchers
        assert not before or memory() - before < SIZE
        assert rest(connection) < sent * 100_000
