"""Who may ask: keys, passwords, host names, origins; and the log. Who may not: test_attacks."""

from __future__ import annotations

import json
import logging
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake import FakePipe, loader
from serving import Client, Running, serving, until

from sdxl.pipeline import ModelRequest
from sdxl.serve import app as app_module
from sdxl.serve.access import is_own_host
from sdxl.serve.settings import Settings

KEY, LOGIN = "a key of letters", "anna:pass:wörd"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Running]:
    """A service with a key, a password, and a page that may ask."""
    settings: dict[str, Any] = {"api_key": KEY, "auth": LOGIN, "cors": ("https://app.example",), "queue": 1}
    settings |= {"allow_hosts": ("images.example",)}
    with serving([ModelRequest("one")], loader(FakePipe()), **settings) as running:
        yield running


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One that lets everybody in."""
    with serving([ModelRequest("one")], loader(FakePipe())) as running:
        yield running


@pytest.fixture
def anybody(guarded: Running) -> Client:
    return guarded.client


@pytest.fixture
def user(guarded: Running) -> Client:
    return Client(guarded.client.port, {"authorization": f"Bearer {KEY}"})


def basic(text: str) -> str:
    return "Basic " + b64encode(text.encode()).decode()


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_know_neither_key_nor_name(path: str, anybody: Client) -> None:
    """Kubernetes asks by the address of the pod, and a load balancer by that of the machine."""
    until(lambda: anybody.get(path, host="10.1.2.3:7860").status == 200)
    assert anybody.get("/metrics", host="10.1.2.3:7860").status == 421


def test_keys_and_passwords(anybody: Client) -> None:
    good: list[dict[str, str]] = [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"x_api_key": KEY},
        {"authorization": basic(LOGIN)},
        {"authorization": basic(f"anyone:{KEY}")},
    ]
    for headers in good:
        assert anybody.get("/api/server", **headers).status == 200, headers
    answer = anybody.get("/api/server")
    assert (answer.status, answer.error["type"]) == (401, "Unauthorized")
    assert answer.headers["www-authenticate"].startswith("Basic ")


def test_a_needless_log_in_is_no_fault(client: Client) -> None:
    for value in ("", "Basic ", "Basic " + b64encode(b"a:b").decode(), "Bearer none", "nonsense"):
        assert client.get("/api/server", authorization=value).status == 200


def test_names_of_this_host(user: Client) -> None:
    for host in ("127.0.0.1", "localhost:1", "[::1]:7860", "images.example", "127.1.2.3", "LOCALHOST"):
        assert user.get("/api/server", host=host).status == 200, host
    wide = Settings(host="0.0.0.0", insecure=True)
    assert is_own_host("192.168.1.2:7860", wide)
    assert is_own_host("[fd00::2]", wide)
    assert not is_own_host("evil.example", wide)
    named = Settings(host="0.0.0.0", insecure=True, allow_hosts=("Images.Example", "[fd00::3]"))
    assert is_own_host("images.example:443", named) and is_own_host("[fd00::3]:80", named)


def test_pages_that_may_ask(user: Client, guarded: Running) -> None:
    own = f"http://127.0.0.1:{guarded.client.port}"
    assert user.get("/api/server", origin=own).status == 200
    allowed = user.get("/api/server", origin="https://app.example")
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "origin" in allowed.headers["vary"].lower()


def test_a_preflight_is_answered_for_allowed_origins_alone(anybody: Client) -> None:
    asks = {"access_control_request_method": "POST", "access_control_request_headers": "authorization"}
    answer = anybody.ask("OPTIONS", "/api/jobs", origin="https://app.example", **asks)
    assert (answer.status, answer.body) == (204, b"")
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert anybody.ask("OPTIONS", "/api/jobs", **asks).status == 401


def test_an_allowed_page_may_send_the_headers_of_its_client(anybody: Client) -> None:
    """As browsers ask for OpenAI's client for JavaScript."""
    names = "authorization,content-type,x-stainless-arch,x-stainless-os,x-stainless-retry-count"
    asks = {"origin": "https://app.example", "access_control_request_method": "POST"}
    answer = anybody.ask("OPTIONS", "/v1/images/generations", **asks, access_control_request_headers=names)
    assert answer.headers["access-control-allow-headers"] == names
    for strange in ("x" * 5000, "a: b", "a;b", ""):
        answer = anybody.ask("OPTIONS", "/api/jobs", **asks, access_control_request_headers=strange)
        assert answer.headers["access-control-allow-headers"] == "authorization, content-type, x-api-key"


def test_all_methods_of_an_address_are_named(user: Client) -> None:
    for path, methods in {
        "/api/jobs": {"GET", "HEAD", "POST"},
        "/api/models": {"GET", "HEAD", "POST"},
        "/sdapi/v1/options": {"GET", "HEAD", "POST"},
        "/sdapi/v1/txt2img": {"POST"},
        "/api/jobs/x": {"GET", "HEAD"},
    }.items():
        answer = user.ask("PUT", path)
        assert answer.status == 405
        assert set(answer.headers["allow"].split(", ")) == methods, path


def test_the_type_of_json_may_have_a_charset(user: Client) -> None:
    body = json.dumps({"prompt": "a"}).encode()
    assert user.post("/api/jobs", body, content_type="Application/JSON; charset=utf-8").status in (202, 429)


def test_a_full_queue_is_429_with_retry_after(anybody: Client) -> None:
    pause = threading.Event()
    with serving([ModelRequest("one")], loader(FakePipe(go=lambda: pause.wait(20))), queue=1) as running:
        client = running.client
        client.job(prompt="a")
        until(lambda: running.service.engine.running)
        client.job(prompt="a")
        answer = client.post("/api/jobs", {"prompt": "a"})
        assert (answer.status, answer.error["type"]) == (429, "BusyError")
        assert int(answer.headers["retry-after"]) >= 1
        pause.set()


def test_every_answer_has_an_id_and_a_line_in_the_log(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sdxl.serve.requests"):
        answer = client.get("/none%0a2026%20forged?secret=x")
        until(lambda: caplog.messages)
    assert answer.headers["x-request-id"] in caplog.messages[0]
    assert "\n" not in caplog.messages[0]
    assert "secret" not in caplog.messages[0]
    assert " GET /none%0A2026%20forged 404 " in caplog.messages[0]


def test_an_unexpected_error_shows_nothing_of_itself(
    client: Client, monkeypatch: pytest.MonkeyPatch, running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(type(running.service.catalog), "files", lambda self, kind: 1 / 0)
    answer = client.get("/api/loras")
    assert (answer.status, answer.error["type"]) == (500, "InternalError")
    assert "division" not in answer.body.decode()
    assert "ZeroDivisionError" in caplog.text
    assert answer.headers["x-request-id"] in answer.error["message"]


def test_a_page_is_served_from_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>page</p>")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/app.js").write_text("let x")
    (tmp_path / ".hidden").write_text("secret")
    monkeypatch.setattr(app_module, "PAGE", tmp_path)
    with serving([ModelRequest("one")], loader(FakePipe())) as running:
        page = running.client.get("/")
        assert (page.status, page.body) == (200, b"<p>page</p>")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert running.client.get("/", if_none_match=page.headers["etag"]).status == 304
        script = running.client.get("/parts/app.js")
        assert script.headers["content-type"].startswith("text/javascript")
        for path in ("/.hidden", "/parts", "/parts/../../x", "/%2e%2e/x"):
            assert running.client.get(path).status == 404
