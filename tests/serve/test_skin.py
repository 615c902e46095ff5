"""The seam for skins: a foreign protocol over the engine, and its synchronous answers."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from fake import FakePipe, loader
from serving import Client, Running, serving, until
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sdxl.errors import ArgumentError
from sdxl.pipeline import ModelRequest
from sdxl.serve import app
from sdxl.serve.body import read_json
from sdxl.serve.problems import Problem
from sdxl.serve.service import Service
from sdxl.serve.skin import Skin, encoded, finished


def foreign(service: Service) -> Skin:
    """`/old/draw` takes {"text", "count"}, and has flat errors."""

    async def draw(request: Request) -> Response:
        given = await read_json(request)
        fields = {"prompt": given.get("text"), "steps": 2}
        work = service.make_work(fields, batches=given.get("count", 1), origin="old")
        job = await finished(request, service, work)
        formats = [encoded(image, "JPEG")[:3] == b"\xff\xd8\xff" for image in job.state.images]
        return JSONResponse({"status": job.state.status, "jpegs": formats})

    def error(problem: Problem) -> Mapping[str, Any]:
        return {"oops": problem.message, "of": problem.argument}

    return Skin("/old/", [Route("/old/draw", draw, methods=["POST"])], error)


@pytest.fixture
def gate() -> threading.Semaphore:
    """Lets through as many steps as it is released for."""
    return threading.Semaphore(0)


@pytest.fixture
def running(gate: threading.Semaphore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(app, "SKINS", (*app.SKINS, foreign))
    pipe = FakePipe(go=lambda: gate.acquire(timeout=20), error=ArgumentError("width is 3; expected 8"))
    with serving([ModelRequest("one")], loader(pipe)) as running:
        yield running


def test_a_synchronous_answer(client: Client, gate: threading.Semaphore) -> None:
    gate.release(4)
    answer = client.post("/old/draw", {"text": "a", "count": 2})
    assert (answer.status, answer.json) == (200, {"status": "done", "jpegs": [True, True]})


def test_errors_have_the_shape_of_the_skin(client: Client) -> None:
    answers = {
        400: client.post("/old/draw", {"text": "error"}),  # of the job
        404: client.get("/old/none"),
        405: client.get("/old/draw"),
        415: client.post("/old/draw", b"{}"),
        421: client.get("/old/draw", host="evil.example"),
    }
    for status, answer in answers.items():
        assert (answer.status, answer.json.keys()) == (status, {"oops", "of"})
    assert answers[400].json == {"oops": "width is 3; expected 8", "of": "width"}
    assert client.post("/old/draw", {}).json["of"] == "prompt"


def test_a_client_that_goes_away_cancels_its_job(client: Client, running: Running, gate: threading.Semaphore) -> None:
    engine = running.service.engine
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
    connection.request(
        "POST", "/old/draw", json.dumps({"text": "gone", "count": 3}), {"content-type": "application/json"}
    )
    until(lambda: engine.running)
    job = engine.running[0]
    connection.close()
    until(lambda: job.is_cancelled)
    gate.release(1)
    until(lambda: job.state.is_over)
    assert (job.state.status, job.work.origin) == ("cancelled", "old")
    gate.release(4)
    assert client.post("/old/draw", {"text": "a", "count": 2}).status == 200  # the next one is not touched


def test_a_waiting_answer_is_503_at_the_end(client: Client, running: Running, gate: threading.Semaphore) -> None:
    answers: list[Any] = []
    ask = [threading.Thread(target=lambda: answers.append(client.post("/old/draw", {"text": "a"}))) for _ in range(2)]
    for thread in ask:
        thread.start()
    until(lambda: running.service.engine.running and running.service.engine.waiting)
    running.process.close()
    until(lambda: len(answers) == 1)
    gate.release(2)
    for thread in ask:
        thread.join(20)
    assert sorted(answer.status for answer in answers) == [200, 503]
