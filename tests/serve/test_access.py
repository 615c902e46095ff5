"""Who may ask, and what a request may be: keys, passwords, host names, origins, bodies."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake import FakePipe, loader
from serving import Client, Running, form, png, serving, until

from sdxl.pipeline import ModelRequest
from sdxl.serve import app as app_module
from sdxl.serve.access import is_own_host
from sdxl.serve.openapi import ENDPOINTS
from sdxl.serve.settings import Settings

KEY, LOGIN = "a key of letters", "anna:pass:wörd"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Running]:
    """A service with a key, a password, a page that may ask, and small bounds."""
    settings: dict[str, Any] = {"api_key": KEY, "auth": LOGIN, "cors": ("https://app.example",), "queue": 1}
    settings |= {"max_body": 20_000, "body_seconds": 0.4, "allow_hosts": ("images.example",)}
    with serving([ModelRequest("one")], loader(FakePipe()), **settings) as running:
        yield running


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One that lets everybody in."""
    with serving([ModelRequest("one")], loader(FakePipe())) as running:
        yield running


@pytest.fixture
def client(running: Running) -> Client:
    return running.client


@pytest.fixture
def anybody(guarded: Running) -> Client:
    return guarded.client


@pytest.fixture
def user(guarded: Running) -> Client:
    return Client(guarded.client.port, {"authorization": f"Bearer {KEY}"})


def basic(text: str) -> str:
    return "Basic " + b64encode(text.encode()).decode()


@pytest.mark.parametrize("each", ENDPOINTS, ids=lambda each: each.name)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_every_route_and_method_but_health_needs_a_log_in(each: Any, method: str, anybody: Client) -> None:
    answer = anybody.ask(method, each.path.format(id="x", name="x"))
    if each.name == "health":
        assert answer.status == (200 if method in ("GET", "HEAD") else 405)
    else:
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert method == "HEAD" or answer.error["type"] == "Unauthorized"


def test_unknown_routes_need_a_log_in_too(anybody: Client, user: Client) -> None:
    for path in ("/none", "/", "/health/", "//health", "/HEALTH", "/health%2f", "/api/openapi.json"):
        assert anybody.get(path).status == 401, path
    assert user.get("/none").status == 404


def test_keys_and_passwords(anybody: Client) -> None:
    good: list[dict[str, str]] = [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"x_api_key": KEY},
        {"authorization": basic(LOGIN)},
        {"authorization": basic(f"anyone:{KEY}")},
    ]
    bad: list[dict[str, str]] = [
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Basic !!!"},
        {"authorization": basic("anna:pass")},
        {"authorization": basic("anna")},
        {"authorization": basic(":")},
        {"authorization": f"Bearer {LOGIN}".encode().decode("latin-1")},
        {"x_api_key": ""},
    ]
    for headers in good:
        assert anybody.get("/api/server", **headers).status == 200, headers
    for headers in bad:
        answer = anybody.get("/api/server", **headers)
        assert answer.status == 401, headers
        assert KEY not in answer.body.decode()


def test_a_needless_log_in_is_no_fault(client: Client) -> None:
    for value in ("", "Basic ", "Basic " + b64encode(b"a:b").decode(), "Bearer none", "nonsense"):
        assert client.get("/api/server", authorization=value).status == 200


def test_foreign_hosts(user: Client) -> None:
    for host in ("127.0.0.1", "localhost:1", "[::1]:7860", "images.example", "127.1.2.3", "LOCALHOST"):
        assert user.get("/api/server", host=host).status == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "192.168.1.2", "0.0.0.0", "a@localhost.evil", "[::1", ":"):
        assert user.get("/api/server", host=host).status in (400, 421), host
    wide = Settings(host="0.0.0.0", insecure=True)
    assert is_own_host("192.168.1.2:7860", wide)
    assert is_own_host("[fd00::2]", wide)
    assert not is_own_host("evil.example", wide)


def test_foreign_origins(user: Client, guarded: Running) -> None:
    own = f"http://127.0.0.1:{guarded.client.port}"
    assert user.get("/api/server", origin=own).status == 200
    foreign = (
        "http://evil.example",
        "null",
        "https://app.example.evil",
        "http://app.example",
        "file://",
        own + "1",
    )
    for origin in foreign:
        for method, path in (("GET", "/api/server"), ("POST", "/api/jobs")):
            answer = user.ask(method, path, origin=origin)
            assert answer.status == 403, (origin, method)
            assert "access-control-allow-origin" not in answer.headers
    allowed = user.get("/api/server", origin="https://app.example")
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "origin" in allowed.headers["vary"].lower()


def test_a_preflight_is_answered_for_allowed_origins_alone(anybody: Client) -> None:
    asks = {"access_control_request_method": "POST", "access_control_request_headers": "authorization"}
    answer = anybody.ask("OPTIONS", "/api/jobs", origin="https://app.example", **asks)
    assert (answer.status, answer.body) == (204, b"")
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert anybody.ask("OPTIONS", "/api/jobs", origin="http://evil.example", **asks).status == 403
    assert anybody.ask("OPTIONS", "/api/jobs", **asks).status == 401


def test_bodies_are_bounded(user: Client) -> None:
    large = {"prompt": "x" * 30_000}
    answer = user.post("/api/jobs", large)
    assert (answer.status, answer.error["type"]) == (413, "TooLargeError")
    body, headers = form([("image", "x.png", b"x" * 30_000)])
    assert user.post("/api/parameters", body, **headers).status == 413
    head = f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
    chunks = b"".join(b"1000\r\n" + b" " * 4096 + b"\r\n" for _ in range(6)) + b"0\r\n\r\n"
    assert b" 413 " in raw(user, head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)


def test_a_slow_body_is_given_up(user: Client) -> None:
    head = f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
    began = time.monotonic()
    assert b" 408 " in raw(user, head.encode() + b'Content-Length: 100\r\n\r\n{"prompt": ')
    assert time.monotonic() - began < 5


def raw(client: Client, data: bytes) -> bytes:
    """The answer to bytes of a connection."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65536):
            answer += part
            if b"\r\n\r\n" in answer and b'"argument"' in answer:
                break
        return answer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b'"text"',
        b'{"prompt": NaN}',
        b'{"steps": Infinity}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b"[" * 9000,
        b'{"a":' * 3000,
        b"\xff\xfe{}",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": 1e999}',
    ],
)
def test_json_that_is_none(body: bytes, user: Client) -> None:
    answer = user.post("/api/jobs", body, content_type="application/json")
    assert answer.status == 400
    assert answer.error["type"] in ("BadRequest", "ArgumentError")


def test_json_needs_its_type(user: Client) -> None:
    body = json.dumps({"prompt": "a"}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"):
        assert user.post("/api/jobs", body, content_type=kind).status == 415, kind
    assert user.post("/api/jobs", body, content_type="Application/JSON; charset=utf-8").status in (202, 429)


def test_forms_that_are_none(user: Client) -> None:
    good, headers = form([("request", None, b'{"prompt": "a"}')])
    for body, kind in (
        (good, "multipart/form-data"),
        (good, "multipart/form-data; boundary="),
        (b"nonsense", headers["content_type"]),
        (form([("other", None, b"x")])[0], headers["content_type"]),
        (form([("request", None, b"{")])[0], headers["content_type"]),
        (form([("image", "../../x.png", b"x")])[0], headers["content_type"]),
        (form([("request", None, b"{}")] * 70)[0], headers["content_type"]),
        (form([("image", "x", b"x")] * 70)[0], headers["content_type"]),
    ):
        assert user.post("/api/jobs", body, content_type=kind).status == 400, body


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
    monkeypatch.setattr(type(running.service.catalog), "loras", lambda self: 1 / 0)
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


def test_uploads_of_too_many_pixels_are_413(client: Client) -> None:
    from PIL import Image

    body = {"prompt": "a", "image": b64encode(png(Image.new("1", (5000, 5000)))).decode()}
    assert client.post("/api/jobs", body).status == 413
