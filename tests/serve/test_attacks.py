"""One table of attacks on one running service: each gets its status, in bounded time, and learns nothing from it.

After all of them the service works, has made no job of any, has opened no address, and its memory is what it was.
"""

from __future__ import annotations

import json
import re
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from attacks import FILED, KEY, LOGIN, TABLE, TRAP, Attack
from fake import FakePipe, loader
from serving import Client, Running, serving, until

from sdxl.pipeline import ModelRequest
from sdxl.serve.settings import MIB

SECONDS = 5.0  # that a row may take, most of it on a busy machine
GROWTH = 100 * MIB  # of the process by all rows; a decoded image of the most pixels has 64
LIMITS: Mapping[str, Any] = {"max_body": 3 * MIB, "body_seconds": 1.0, "head_seconds": 2.0}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("hidden-folder")
    (folder / "loras").mkdir()
    (folder / "secret").write_text(FILED)
    (folder / "secret.safetensors").write_text(FILED)
    settings = {"api_key": KEY, "auth": LOGIN, "cors": ("https://app.example",), **LIMITS}
    models = [ModelRequest(folder / "one", lora_dir=folder / "loras", embedding_dir=folder / "loras")]
    with serving(models, loader(FakePipe()), **settings) as running:
        yield running


@pytest.fixture(scope="module")
def before() -> int | None:
    """The memory of the process before the table; None where its peak cannot be measured."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    except OSError:
        return None
    return memory("VmRSS")


def memory(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


ATTACKS = [pytest.param(each, marks=pytest.mark.slow if each.waits else ()) for each in TABLE]


@pytest.mark.usefixtures("before")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: re.sub(r"[^\x21-\x7e]", "_", attack.name)[:80])
def test_an_attack(attack: Attack, running: Running) -> None:
    began, jobs = time.monotonic(), running.service.engine.jobs()
    status, answer = sent(attack, running.client.port)
    assert status in attack.expected, answer[:2000]
    assert time.monotonic() - began < SECONDS
    assert len(answer) < 20_000
    for hidden in (KEY, "pass:w", FILED, "hidden-folder", "root:", "Traceback", '.py"', "site-packages", "Errno"):
        assert hidden not in answer, hidden
    head = answer.partition("\r\n\r\n")[0].lower()
    assert "set-cookie" not in head and "access-control-allow-origin" not in head
    assert running.service.engine.jobs() == jobs
    with pytest.raises(BlockingIOError):
        TRAP.accept()


def sent(attack: Attack, port: int) -> tuple[int, str]:
    """The status and all bytes of the answer; 0 if the connection is closed without one."""
    if attack.raw is not None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            answer = _exchange(connection, attack.raw)
        return int(answer[9:12] or b"0"), answer.decode("latin-1")
    headers = {} if attack.is_anybody else {"x-api-key": KEY}
    client = Client(port, {**headers, **attack.headers})
    got = client.ask(attack.method, attack.path, attack.body)
    head = "".join(f"{name}: {value}\r\n" for name, value in got.headers.items())
    if attack.method != "HEAD":
        assert json.loads(got.body)
    return got.status, f"{head}\r\n{got.body.decode()}"


def _exchange(connection: socket.socket, data: bytes) -> bytes:
    """The answer to some bytes, after which nothing is sent; without its body's end where it is kept open. A server
    that refuses bytes before it has read them all may close the connection so that the answer is lost.
    """
    answer = b""
    with suppress(ConnectionError):
        connection.sendall(data)
        while part := connection.recv(65536):
            answer += part
            head, found, body = answer.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if found and length is not None and len(body) >= int(length[1]):
                break
    return answer


def test_two_readers_cannot_see_two_requests_in_one(running: Running) -> None:
    """What a proxy takes for the body of the first is no request of its own here (request smuggling)."""
    second = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    (attack,) = (attack for attack in TABLE if attack.name == "header: length and chunks")
    assert attack.raw is not None
    with socket.create_connection(("127.0.0.1", running.client.port), timeout=10) as connection:
        connection.sendall(attack.raw + second)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.slow
def test_a_slow_header_is_bounded_on_a_connection_that_was_used(running: Running) -> None:
    """Also while the rest of a body trickles in, which nobody reads."""
    with socket.create_connection(("127.0.0.1", running.client.port), timeout=10) as connection:
        _exchange(connection, b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        with pytest.raises(ConnectionError):
            _trickle(connection, SECONDS)


def test_what_is_no_http_ends_an_answer_that_has_begun(caplog: pytest.LogCaptureFixture) -> None:
    """Events of a job that does not end."""
    go = threading.Event()
    with serving([ModelRequest("one")], loader(FakePipe(go=lambda: go.wait(20)))) as other:
        path = f"/api/jobs/{other.client.job(prompt='a')['id']}/events"
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        with socket.create_connection(("127.0.0.1", other.client.port), timeout=10) as connection:
            connection.sendall(head.encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            connection.sendall(b"no length\r\n")
            while connection.recv(65536):
                pass
        go.set()
        assert other.client.get("/health").status == 200
    assert "Traceback" not in caplog.text


def test_bodies_are_bounded_together() -> None:
    """Those that have not ended too: without, as many as there are connections would be in memory."""
    head = (
        f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {MIB}\r\n\r\n"
    )
    with serving([ModelRequest("one")], loader(FakePipe()), max_body=MIB) as other:
        with ExitStack() as open_ones:
            connections = []
            for _ in range(17):
                connection = socket.create_connection(("127.0.0.1", other.client.port), timeout=10)
                connections.append(open_ones.enter_context(connection))
                connection.sendall(head.encode() + bytes(MIB - 1))
            (refused,), _, _ = select.select(connections, [], [], 10)
            answer = refused.recv(65536)
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"retry-after: 5" in answer.lower()
        until(lambda: other.client.post("/api/jobs", {"prompt": "a" * 1000}).status == 202)


def _trickle(connection: socket.socket, seconds: float) -> None:
    """Send a letter now and then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection.sendall(b"G")
        time.sleep(0.05)


def test_the_service_is_as_before(running: Running, before: int | None) -> None:
    """After the table, if it ran."""
    assert running.service.engine.jobs() == running.service.engine.waiting == running.service.engine.running == []
    assert running.client.get("/health").status == 200
    assert before is None or memory("VmHWM") - before < GROWTH


def test_the_table_is_long() -> None:
    assert len(TABLE) >= 40
    assert len({attack.name for attack in TABLE}) == len(TABLE)
