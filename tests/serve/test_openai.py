"""OpenAI's API of images against a running service with the miniature, by OpenAI's own client and without it."""

from __future__ import annotations

import http.client
import io
import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fake import FakePipe, loader
from PIL import Image, ImageDraw
from serving import LIMITS, PROMPT, Client, Running, form, in_base64, miniatures, open_miniature, png, serving, until

import sdxl
from sdxl.serve import events

SMALL: dict[str, Any] = {"prompt": PROMPT, "size": "64x64"}
OWN: dict[str, Any] = {"steps": 3, "seed": 7}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(miniatures(), **LIMITS, api_key="secret") as running:
        yield running


@pytest.fixture
def client(running: Running) -> Client:
    return Client(running.client.port, {"x-api-key": "secret"})


@pytest.fixture
def theirs(running: Running) -> Any:
    openai = pytest.importorskip("openai")
    url = f"http://127.0.0.1:{running.client.port}/v1"
    return openai.OpenAI(api_key="secret", base_url=url, max_retries=0)


@pytest.fixture(scope="module")
def miniature() -> Any:
    return open_miniature()


def pixels(text: str, format: str = "PNG") -> np.ndarray:
    image = Image.open(io.BytesIO(b64decode(text)))
    assert image.format == format
    return np.asarray(image.convert("RGB"))


def source() -> tuple[Image.Image, Image.Image]:
    """An image, and a mask that is transparent in its middle."""
    image, mask = Image.new("RGB", (64, 64), "green"), Image.new("RGBA", (64, 64), "black")
    ImageDraw.Draw(mask).rectangle((16, 16, 47, 47), fill=(0, 0, 0, 0))
    return image, mask


def test_generations_are_the_images_of_the_pipeline(theirs: Any, miniature: Any) -> None:
    own = OWN | {"negative_prompt": "a cat", "guidance_scale": 4, "sampler": "DPM++ 2M Karras"}
    answer = theirs.images.generate(model="gpt-image-1", **SMALL, n=2, quality="low", user="me", extra_body=own)
    expected = miniature(PROMPT, width=64, height=64, num_images=1, progress=False, **own).images[0]
    assert len(answer.data) == 2
    assert np.array_equal(pixels(answer.data[0].b64_json), np.asarray(expected))
    second = miniature(PROMPT, width=64, height=64, progress=False, **own | {"seed": 8}).images[0]
    assert np.array_equal(pixels(answer.data[1].b64_json), np.asarray(second))
    assert (answer.size, answer.output_format, answer.quality) == ("64x64", "png", "low")


def test_edits_repaint_what_is_transparent(theirs: Any, miniature: Any) -> None:
    image, mask = source()
    given = {"prompt": PROMPT, "extra_body": OWN}
    answer = theirs.images.edit(model="x", image=("a.png", png(image)), mask=("m.png", png(mask)), **given)
    white = mask.getchannel("A").point([255] * 128 + [0] * 128)
    expected = miniature(PROMPT, image=image, mask=white, progress=False, **OWN).images[0]
    got = pixels(answer.data[0].b64_json)
    assert np.array_equal(got, np.asarray(expected))
    kept = np.asarray(white) == 0
    assert np.array_equal(got[kept], np.asarray(image)[kept])
    hole = image.copy()
    hole.putalpha(mask.getchannel("A"))
    own = theirs.images.edit(model="x", image=png(hole), **given)  # the image's own transparency, without a file's name
    assert not np.array_equal(pixels(own.data[0].b64_json), np.asarray(image))
    whole = theirs.images.edit(
        model="x", image=[("a.png", png(image))], prompt=PROMPT, extra_body=OWN | {"strength": 0.6}
    )
    expected = miniature(PROMPT, image=image, strength=0.6, progress=False, **OWN).images[0]
    assert np.array_equal(pixels(whole.data[0].b64_json), np.asarray(expected))


def test_a_stream_has_partial_images_and_the_whole_one(theirs: Any, client: Client) -> None:
    with theirs.images.generate(**SMALL, stream=True, partial_images=2, extra_body=OWN) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    assert kinds[-1] == "image_generation.completed"
    assert set(kinds[:-1]) == {"image_generation.partial_image"}
    assert [event.partial_image_index for event in events[:-1]] == list(range(len(events) - 1))
    assert events[0].created_at
    whole = theirs.images.generate(**SMALL, extra_body=OWN).data[0]
    assert np.array_equal(pixels(events[-1].b64_json), pixels(whole.b64_json))
    assert events[-1].usage.total_tokens == 0
    image, mask = source()
    edits = theirs.images.edit(image=png(image), mask=png(mask), prompt=PROMPT, stream=True, extra_body=OWN)
    assert [event.type for event in edits][-1] == "image_edit.completed"
    body = {**SMALL, **OWN, "stream": True, "sampler_options": 1, "schedule": "karras"}
    assert client.post("/v1/images/generations", body).headers["content-type"].startswith("text/event-stream")


def test_errors_have_the_shape_that_the_client_reads(theirs: Any, client: Client, running: Running) -> None:
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.BadRequestError) as caught:
        theirs.images.generate(prompt="", model="x")
    assert (caught.value.param, caught.value.type) == ("prompt", "invalid_request_error")
    assert "prompt is missing" in caught.value.message
    for wrong in (
        {"size": "63x64"},
        {"n": 11},
        {"output_format": "gif"},
        {"background": "transparent"},
        {"size": "big"},
    ):
        with pytest.raises(openai.BadRequestError):
            theirs.images.generate(**SMALL | wrong)
    with pytest.raises(openai.BadRequestError):
        theirs.images.edit(image=[png(source()[0])] * 2, prompt=PROMPT)
    with pytest.raises(openai.BadRequestError):
        theirs.images.edit(image=png(source()[0]), mask=png(source()[0]), prompt=PROMPT)
    with pytest.raises(openai.NotFoundError):
        theirs.models.retrieve("gpt-image-1")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(api_key="wrong", base_url=theirs.base_url, max_retries=0).models.list()
    stream = theirs.images.generate(**SMALL | {"size": "63x64"}, stream=True)  # which the model's plan refuses
    with pytest.raises(openai.APIError, match="multiple") as late:
        list(stream)
    assert type(late.value) is openai.APIError


def test_models(theirs: Any) -> None:
    assert [model.id for model in theirs.models.list()] == ["miniature", "miniature-refiner"]
    assert theirs.models.retrieve("miniature").owned_by == "sdxl"


@pytest.mark.parametrize(("name", "format"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_formats(client: Client, name: str, format: str) -> None:
    sizes = []
    for more in ({}, {"output_compression": 20}):
        given = SMALL | OWN | {"output_format": name, **more}
        data = client.post("/v1/images/generations", given).json["data"][0]["b64_json"]
        pixels(data, format)
        assert b"Steps: 3" in b64decode(data).replace(b"\0", b"")  # EXIF in UTF-16
        sizes.append(len(data))
    assert sizes[1] < sizes[0]


def test_without_a_client(client: Client) -> None:
    """JSON in edits, a form in generations, addresses of images, and links to them."""
    image, mask = source()
    edit = {"prompt": PROMPT, "image": in_base64(image), "mask": in_base64(mask), **OWN}
    assert client.post("/v1/images/edits", edit).status == 200
    body, header = form([(name, None, str(value).encode()) for name, value in (SMALL | OWN).items()])
    formed = client.post("/v1/images/generations", body, **header).json["data"][0]
    stated = client.post("/v1/images/generations", SMALL | OWN | {"response_format": "url"}).json["data"][0]
    assert stated["url"] == "data:image/png;base64," + formed["b64_json"]
    refused = client.post("/v1/images/edits", edit | {"image": "http://169.254.169.254/a.png"})
    assert (refused.status, refused.error["param"]) == (400, "image")
    assert json.loads(client.get("/v1/nothing").body)["error"]["code"] == "not_found"
    assert client.get("/v1/images/edits").status == 405


def test_a_client_that_leaves_its_stream_cancels_the_job() -> None:
    gate = threading.Semaphore(0)
    with serving([sdxl.ModelRequest("one")], loader(FakePipe(go=lambda: gate.acquire(timeout=20)))) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.client.port, timeout=20)
        body = json.dumps({"prompt": "a", "steps": 4, "stream": True, "partial_images": 1, "n": 2})
        connection.request("POST", "/v1/images/generations", body, {"content-type": "application/json"})
        until(lambda: running.service.engine.running)
        job = running.service.engine.running[0]
        gate.release(4)
        until(lambda: len(job.state.images) == 1)
        answer = connection.getresponse()
        assert answer.readline() == b"event: image_generation.completed\n"
        answer.close()
        connection.close()
        until(lambda: job.is_cancelled)
        gate.release(4)
        until(lambda: job.state.is_over)
        assert job.state.status == "cancelled"


def test_a_stream_shows_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """While its job waits, clients and proxies would give up."""
    monkeypatch.setattr(events, "_BEAT_SECONDS", 0.01)
    gate = threading.Semaphore(0)
    with serving([sdxl.ModelRequest("one")], loader(FakePipe(go=lambda: gate.acquire(timeout=20)))) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.client.port, timeout=20)
        body = json.dumps({"prompt": "a", "steps": 1, "stream": True})
        connection.request("POST", "/v1/images/generations", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        assert [answer.readline() for _ in range(4)] == [b": \n", b"\n"] * 2
        gate.release()
        assert answer.read().count(b"event: image_generation.completed\n") == 1
        connection.close()
