"""`sdxl serve` as a process: it listens before torch is imported, and ends as it should."""

from __future__ import annotations

import logging
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake import FakePipe, loader
from serving import Client, serving, until

from sdxl import SDXLError
from sdxl.cli.main import main
from sdxl.pipeline import ModelRequest
from sdxl.serve import run


@contextmanager
def started(*flags: str) -> Iterator[tuple[subprocess.Popen[str], Client, float]]:
    """A process, a client for it, and when it was started."""
    began = time.monotonic()
    command = [sys.executable, "-m", "sdxl", "serve", "--model", "miniature", "--port", "0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", process.stderr.readline())
        assert found is not None
        yield process, Client(int(found[1])), began
    finally:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def _logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handlers that the command sets are gone after each test."""
    for name in ("sdxl.serve", "uvicorn.error"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)


def test_the_service_is_made_without_torch() -> None:
    work = """
import sys, uvicorn
from sdxl.cli.serve import serve_parser
from sdxl.pipeline import ModelRequest
from sdxl.serve.app import make_app
from sdxl.serve.catalog import make_catalog
from sdxl.serve.run import Process
from sdxl.serve.service import make_service
from sdxl.serve.settings import Settings
service = make_service(Settings(), make_catalog([ModelRequest("miniature")]))
make_app(service)
service.make_work({"prompt": "a", "sampler": "euler"})
print(sorted({"torch", "numpy", "PIL", "safetensors", "tokenizers"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_it_answers_while_the_model_is_loaded_and_finishes_its_image_at_the_end() -> None:
    with started("--dtype", "float32") as (process, client, began):
        assert client.get("/health").json == {"status": "ok"}
        assert time.monotonic() - began < 5  # a second where nothing else runs: `make proof-service`
        assert client.get("/ready").status == 503
        until(lambda: client.get("/ready").status == 200, 60)
        assert process.stderr is not None
        assert " miniature is loaded: cpu, float32, offload " in next(
            line for line in process.stderr if "loaded" in line
        )
        given: dict[str, Any] = {"prompt": "a red circle", "steps": 30, "width": 256, "height": 256}
        running, waiting = client.job(**given), client.job(**given)
        until(lambda: client.get(f"/api/jobs/{running['id']}").json["step"])
        process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/ready").json == {"status": "closing"})
        refused = client.post("/api/jobs", given)
        assert (refused.status, refused.error["type"]) == (503, "ClosingError")
        assert client.get(f"/api/jobs/{waiting['id']}").json["error"]["type"] == "ClosingError"
        assert client.events(running["id"])[-1][0] == "done"
        time.sleep(0.5)  # a client that is slow to ask for its image
        assert client.get(f"/api/files/{running['id']}-1.png").status == 200
        assert process.wait(30) == 0


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_the_image() -> None:
    with started() as (process, client, _):
        until(lambda: client.get("/ready").status == 200, 60)
        job = client.job(prompt="a", steps=150, width=1024, height=1024)
        until(lambda: client.get(f"/api/jobs/{job['id']}").json["status"] == "running")
        process.send_signal(signal.SIGINT)
        until(lambda: client.get("/ready").json == {"status": "closing"})
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system closes no terminals by a signal")
def test_a_closed_terminal_ends_it_as_sigterm_does() -> None:
    with started() as (process, client, _):
        until(lambda: client.get("/ready").status == 200, 60)
        job = client.job(prompt="a", steps=150, width=256, height=256)
        until(lambda: client.get(f"/api/jobs/{job['id']}").json["step"])
        for _ in range(2):  # the shell sends another one at its end, which does not cancel the image
            process.send_signal(signal.SIGHUP)
            until(lambda: client.get("/ready").json == {"status": "closing"})
        assert client.events(job["id"])[-1][0] == "done"
        assert process.wait(30) == 0


@pytest.mark.slow
def test_who_has_just_connected_is_answered_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_LAST_SECONDS", 3.0)
    with serving([ModelRequest("one")], loader(FakePipe())) as running:
        address = ("127.0.0.1", running.client.port)
        with socket.create_connection(address, timeout=20) as connection:
            running.process.close()
            until(lambda: refused(address))
            connection.sendall(b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
            assert connection.recv(100).startswith(b"HTTP/1.1 ")


def refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=20).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.slow
def test_signals_before_and_after_the_work_end_it_as_one_in_it() -> None:
    work = """
import os, signal, sys
from sdxl.cli.main import main
from sdxl.serve.run import Process
run = Process.run
def run_between_signals(self):
    for number in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
        os.kill(os.getpid(), number)
    status = run(self)
    for number in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
        os.kill(os.getpid(), number)
    return status
Process.run = run_between_signals
sys.exit(main(["serve", "--model", "miniature", "--port", "0"]))
"""
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_errors_at_the_start(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, status, message in (
        (["--host", "0.0.0.0"], 2, "give --api-key or --auth"),
        (["--queue", "0"], 2, "queue is 0"),
        (["--devices", "cpu,"], 2, "--devices is cpu,"),
        (["--api-key", "@/no/such/file"], 2, "the file of --api-key cannot be read"),
        (["--host", "256.1.1.1", "--insecure"], 1, "cannot be listened on"),
        (["--model", "nosuch"], 1, "nosuch does not exist"),
        (["--model", "miniature", "--model", "nosuch"], 1, "nosuch does not exist"),
    ):
        model = [] if "--model" in flags else ["--model", "miniature"]
        assert main(["serve", "--port", "0", *model, *flags]) == status, flags
        assert message in capsys.readouterr().err
    monkeypatch.setattr(run, "_EXTRA", ("no_such_package",))
    assert main(["serve"]) == 1
    assert 'pip install "sdxl-torch[serve]"' in capsys.readouterr().err
    with pytest.raises(SDXLError):
        run.check_extra()


def test_secrets_come_from_files_and_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sdxl.cli.serve import _settings, serve_parser

    (tmp_path / "key").write_text("from a file\n")
    monkeypatch.setenv("SDXL_AUTH", "anna:word")
    settings = _settings(
        serve_parser().read(["--api-key", f"@{tmp_path}/key", "--max-body", "2", "--cors", "http://a.b"])
    )
    assert (settings.api_key, settings.auth, settings.max_body) == ("from a file", "anna:word", 2 * 2**20)
    assert settings.cors == ("http://a.b",)
