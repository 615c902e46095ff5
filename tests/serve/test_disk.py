"""A service needs no disk: one may be full, or not writable, as in a container that is read only."""

from __future__ import annotations

import tempfile
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake import FakePipe, loader
from PIL import Image
from serving import Client, Running, form, png, serving

from sdxl.pipeline import ModelRequest


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Running]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with serving([ModelRequest("one")], loader(FakePipe())) as running:
        yield running


def test_no_request_writes_a_file(client: Client) -> None:
    large = png(Image.effect_noise((1200, 1200), 100).convert("RGB"))
    assert len(large) > 2 * 2**20
    body, headers = form([("image", "x.png", large), ("request", None, b'{"prompt": "a"}')])
    assert client.post("/api/jobs", body, **headers).status == 202
    body, headers = form([("image", "x.png", large), ("prompt", None, b"a")])
    assert client.post("/v1/images/edits", body, **headers).status == 200
    (image,) = client.done(client.job(prompt="a cat")["id"])["images"]
    small = client.get(image["url"]).body
    body, headers = form([("image", "x.png", small)])
    assert client.post("/api/parameters", body, **headers).json["request"]["prompt"] == "a cat"
    answer = client.post("/sdapi/v1/png-info", {"image": b64encode(small).decode()})
    assert answer.status == 200 and answer.json["parameters"]["Prompt"] == "a cat"
