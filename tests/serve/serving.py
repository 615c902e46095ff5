"""A running service and a client for it.

To import this skips a module of tests where the packages of the extra `serve` are not installed.
"""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

for package in ("starlette", "uvicorn", "multipart"):
    pytest.importorskip(package)

from sdxl.pipeline import ModelRequest, Pipeline
from sdxl.serve.catalog import make_catalog
from sdxl.serve.run import Process, listen
from sdxl.serve.service import Service, make_service
from sdxl.serve.settings import Settings
from sdxl.serve.worker import Load, load

ADAPTERS = Path(__file__).parents[2] / "weights/adapters"
PROMPT = "a red circle on a blue background"
SMALL: dict[str, Any] = {"prompt": PROMPT, "steps": 3, "width": 64, "height": 64, "seed": 7}
LIMITS: dict[str, Any] = {"max_steps": 40, "max_pixels": 256 * 256, "max_images": 8}


def miniatures(**more: Any) -> list[ModelRequest]:
    """The miniature and its refiner, as a service has them in these tests."""
    return [ModelRequest(name, dtype="float32", device="cpu", **more) for name in ("miniature", "miniature-refiner")]


def open_miniature(**more: Any) -> Pipeline:
    """The miniature in a pipeline of its own, whose images those of the service should be."""
    return Pipeline.from_request(miniatures(**more)[0])


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


@dataclass(frozen=True)
class Client:
    """Requests to a port of this machine, each on a connection of its own."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A body that is no bytes is sent as JSON. Headers have _ for -."""
        given = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body, given = json.dumps(body).encode(), {"content-type": "application/json"} | given
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, given)
            got = connection.getresponse()
            return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)

    def events(self, id: str) -> list[tuple[str, Any]]:
        """All events of a job, to the last."""
        answer = self.get(f"/api/jobs/{id}/events")
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = []
        for block in answer.body.decode().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if lines:
                events.append((lines["event"], json.loads(lines["data"])))
        return events

    def job(self, **given: Any) -> Any:
        """A new job, as it is queued."""
        answer = self.post("/api/jobs", given)
        assert answer.status == 202, answer.body
        return answer.json

    def done(self, id: str) -> Any:
        """A job when it is over."""
        self.events(id)
        return self.get(f"/api/jobs/{id}").json

    def image(self, shown: Any) -> Image.Image:
        """The image of an entry of a job."""
        answer = self.get(shown["url"])
        assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
        return Image.open(io.BytesIO(answer.body))


@dataclass(frozen=True)
class Running:
    service: Service
    process: Process
    client: Client
    thread: threading.Thread


@contextmanager
def serving(models: Sequence[ModelRequest], load: Load = load, **settings: Any) -> Iterator[Running]:
    """A service in a thread, when its first model is loaded."""
    chosen = Settings(port=0, **settings)
    service = make_service(chosen, make_catalog(models), load)
    listener = listen(chosen)
    process = Process(service, listener)
    thread = threading.Thread(target=process.run, daemon=True)
    thread.start()
    client = Client(listener.getsockname()[1])
    try:
        until(lambda: service.engine.is_ready or service.engine.fault, 120)
        yield Running(service, process, client, thread)
    finally:
        process.close()
        process.close()
        thread.join(20)
        assert not thread.is_alive()


def until(condition: Any, seconds: float = 30) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.005)


def png(image: Image.Image, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, format="PNG", **options)
    return data.getvalue()


def in_base64(image: Image.Image, **options: Any) -> str:
    return b64encode(png(image, **options)).decode()


def recorded(client: Client, request: dict[str, Any], model: str = "miniature", **parts: str) -> Any:
    """What the service reads in an image of this record."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("sdxl", json.dumps({"version": "sdxl 0", "model": {"model": model, **parts}, "request": request}))
    answer = client.post("/api/parameters", {"image": in_base64(Image.new("RGB", (8, 8)), pnginfo=info)})
    assert answer.status == 200, answer.body
    return answer.json


def form(parts: Sequence[tuple[str, str | None, bytes]], boundary: str = "edge") -> tuple[bytes, dict[str, str]]:
    """A multipart body of (name, file name, content), and its header."""
    body = io.BytesIO()
    for name, file, content in parts:
        named = f'; filename="{file}"' if file else ""
        body.write(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode())
        body.write(content + b"\r\n")
    body.write(f"--{boundary}--\r\n".encode())
    return body.getvalue(), {"content_type": f"multipart/form-data; boundary={boundary}"}
