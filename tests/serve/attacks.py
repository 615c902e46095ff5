"""The table of attacks: requests, as headers and a body or as the bytes of a connection, and what each gets."""

from __future__ import annotations

import io
import re
import socket
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from serving import form, png

from sdxl.pipeline import ModelRequest
from sdxl.serve import app
from sdxl.serve.catalog import make_catalog
from sdxl.serve.guard import OPEN
from sdxl.serve.service import make_service
from sdxl.serve.settings import MIB, Settings

KEY, LOGIN, FILED = "a-key-of-letters", "anna:pass:wörd", "what-a-file-holds"
TRAP = socket.create_server(("127.0.0.1", 0))  # an address that nobody may open
URL = f"http://127.0.0.1:{TRAP.getsockname()[1]}/x.png"
TRAP.setblocking(False)


@dataclass(frozen=True)
class Attack:
    """A request and the statuses that it may get; `raw` bytes in the place of all else; 0: closed without an answer."""

    name: str
    expected: tuple[int, ...]
    method: str = "POST"
    path: str = "/api/jobs"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    raw: bytes | None = None
    is_anybody: bool = False

    @property
    def waits(self) -> bool:
        """Whether the server waits for more before it gives up."""
        return self.expected in ((0,), (408,))


def job(name: str, status: int = 400, **given: Any) -> Attack:
    """A job that is refused."""
    return Attack(f"job: {name}", (status,), body={"prompt": "a", **given})


def lines(
    name: str, *statuses: int, first: str = "POST /api/jobs HTTP/1.1", more: bytes = b"", **headers: str
) -> Attack:
    """A request by hand. Headers have _ for -; one that ends with _ is given a second time."""
    given = {"Host": "localhost", "X-API-Key": KEY, "Content-Type": "application/json", **headers}
    head = "".join(f"{key.rstrip('_').replace('_', '-')}: {value}\r\n" for key, value in given.items() if value != "-")
    return Attack(f"header: {name}", statuses, raw=f"{first}\r\n{head}\r\n".encode("latin-1") + more)


def basic(text: str) -> str:
    return "Basic " + b64encode(text.encode()).decode()


def text(data: bytes) -> str:
    return b64encode(data).decode()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int, *more: bytes) -> bytes:
    """A PNG that says it is large, with the data of a small one."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    pixels = chunk(b"IDAT", zeros(10))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + pixels + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A compressed text of 200 MB in 200 kB."""
    return bomb(8, 8, chunk(b"zTXt", b"parameters\0\0" + zeros(200)))


def zeros(millions: int) -> bytes:
    """So many millions of zeros as zlib packs them: the same block again and again, which takes no time to make."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_FULL_FLUSH)
    check = struct.pack(">HH", millions * 1_000_000 % 65521, 1)  # Adler-32
    return b"\x78\xda" + block * millions + packer.flush() + check


def recorded(parameters: str) -> bytes:
    """A PNG that says it was made here."""
    info = PngInfo()
    info.add_text("sdxl", parameters)
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, format="PNG", pnginfo=info)
    return data.getvalue()


def saved(kind: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, format=kind)
    return data.getvalue()


def log_ins() -> Iterator[Attack]:
    """Who is not logged in, on every route that there is, by every method."""
    service = make_service(Settings(), make_catalog([ModelRequest("one")]))
    routes = [route for make in app.SKINS for route in make(service).routes]
    paths = {re.sub(r"{[^}]*}", "x", getattr(route, "path", "/")) for route in routes}
    paths |= {
        "/",
        "/page.js",
        "/none",
        "/health/",
        "//health",
        "/HEALTH",
        "/health%2f",
        "/health;x",
        "/health/../api/jobs",
    }
    for path in sorted(paths - {*OPEN}):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"):
            yield Attack(f"log in: {method} {path}", (401,), method, path, is_anybody=True)
    wrong: dict[str, dict[str, str]] = {
        "an empty key": {"authorization": "Bearer "},
        "one letter more": {"authorization": f"Bearer {KEY}x"},
        "one letter less": {"authorization": f"Bearer {KEY[:-1]}"},
        "a key without scheme": {"authorization": KEY},
        "a key as Basic": {"authorization": f"Basic {KEY}"},
        "no base64": {"authorization": "Basic !!!"},
        "a wrong password": {"authorization": basic("anna:pass")},
        "no password": {"authorization": basic("anna")},
        "no user": {"authorization": basic(":")},
        "the log-in as a key": {"authorization": f"Bearer {LOGIN}".encode().decode("latin-1")},
        "an empty X-API-Key": {"x-api-key": ""},
        "1 MB of base64": {"authorization": "Basic " + "A" * 10_000},
        "a key in a cookie": {"cookie": f"key={KEY}"},
    }
    for name, headers in wrong.items():
        yield Attack(f"log in: {name}", (401,), "GET", "/api/server", headers, is_anybody=True)
    yield Attack("log in: a key in the query", (401,), "GET", f"/api/server?key={KEY}", is_anybody=True)


def pages() -> Iterator[Attack]:
    """Foreign names of this host (DNS rebinding), and foreign pages (cross-site requests)."""
    for host in ("evil.example", "127.0.0.1.evil.example", "192.168.1.2", "0.0.0.0", "a@localhost.evil", "[::1", ":"):
        yield Attack(f"host: {host}", (400, 421), "GET", "/api/server", {"host": host})
    yield Attack(
        "host: X-Forwarded-Host",
        (421,),
        "GET",
        "/api/server",
        {"host": "evil.example", "x-forwarded-host": "localhost"},
    )
    yield lines("no host", 400, 421, Host="-")
    yield lines("two hosts", 400, Host_="evil.example")
    yield lines("an address as target", 421, first="GET http://localhost/api/server HTTP/1.1", Host="evil.example")
    origins = ("http://evil.example", "null", "https://app.example.evil", "http://app.example", "file://", "")
    for origin in (*origins, "http://localhost:1", "https://app.example@evil.example", "http://["):
        for method, path in (("GET", "/api/server"), ("POST", "/api/jobs")):
            yield Attack(f"origin: {method} {origin}", (403,), method, path, {"origin": origin})
    ask = {"access-control-request-method": "POST", "origin": "http://evil.example"}
    yield Attack("origin: a preflight", (403,), "OPTIONS", "/api/jobs", ask)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"):
        body = b'{"prompt": "a"}'  # what a page may send without a preflight
        yield Attack(f"origin: a form's type {kind}", (415,), headers={"content-type": kind}, body=body)


def names() -> Iterator[Attack]:
    """Paths in the place of names."""
    paths = (
        "../secret",
        "../secret.safetensors",
        "/etc/passwd",
        "~/x",
        "C:\\x",
        "//host/share",
        "a/../../secret",
        "\0",
    )
    for name in (*paths, "..", "", "%2e%2e/secret", "stabilityai/stable-diffusion-xl-base-1.0", "x" * 100_000):
        shown = name[:40]
        yield job(f"LoRA {shown!r}", 400 if name in ("",) else 404, loras=[name])
        yield job(f"LoRA as an object {shown!r}", 400 if name in ("",) else 404, loras=[{"file": name}])
        yield job(f"model {shown!r}", 404, model=name)
        yield Attack(f"switch to {shown!r}", (404,), path="/api/models", body={"model": name})
        yield job(f"session {shown!r}", session=name)
    for name in (
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e%2fsecret",
        "%00",
        "x%0d%0aset-cookie:%20a=b",
        "%ff",
    ):
        for path in ("/api/files/{}", "/api/files/{}-1.png", "/api/jobs/{}", "/api/jobs/{}/events", "/{}", "/api/{}"):
            yield Attack(f"file: {path.format(name)}", (404,), "GET", path.format(name))
        yield Attack(f"cancel: {name}", (404,), "POST", f"/api/jobs/{name}/cancel")
        yield Attack(f"session: {name}", (400,), "GET", f"/api/jobs?session={name}")
    yield job("10^4 LoRAs", loras=["x"] * 10_000)
    yield job("a control's file", control=[{"net": "/etc/passwd", "image": "/etc/passwd"}])
    yield job("a reference's file", reference=[{"net": "/etc/passwd", "image": "/etc/passwd"}])
    yield job("a file of latents", latents="/etc/passwd")


def images() -> Iterator[Attack]:
    """Addresses in the place of images, bombs, and files that are none."""
    for url in (URL, URL.upper(), "https://localhost/x", "file:///etc/passwd", "ftp://x/y", "//x/y.png", "/etc/passwd"):
        yield job(f"image {url}", image=url)
        yield job(f"mask {url}", image=text(png(Image.new("RGB", (8, 8)))), mask=[url])
    yield job("image data URL of an address", image=f"data:image/png,{URL}")
    yield job("image data URL and an address", image=f"data:image/png;base64,{URL}")
    many = [text(png(Image.new("1", (8, 8))))] * 16
    yield job("images of references", reference=[{"adapter": "x", "image": [many] * 5}])
    yield job("images of controls", control=[{"net": "x", "image": many}] * 5)
    yield job("image number", image=5)
    yield job("image object", image={"url": URL})
    yield job("image nothing", image="")
    for name, data, status in (
        ("one of 30000 x 30000", bomb(30_000, 30_000), 413),
        ("one of 2^31 x 2^31", bomb(2**31 - 1, 2**31 - 1), 413),
        ("one of 0 x 0", bomb(0, 0), 400),
        ("one bit for each pixel", png(Image.new("1", (5000, 5000))), 413),
        ("a text of 200 MB", text_bomb(), 400),
        ("a profile of 20 MB", bomb(8, 8, chunk(b"iCCP", b"x\0\0" + zeros(20))), 400),
        ("half an image", png(Image.effect_noise((64, 64), 9.0))[:900], 400),
        ("a letter", b"\x89", 400),
        ("a GIF", saved("GIF"), 400),
        ("a TIFF", saved("TIFF"), 400),
        ("a PostScript program", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n" + b"x" * 999, 400),
        ("an SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', 400),
    ):
        yield job(f"image that is {name}", status, image=text(data))
        body, headers = form([("image", "../../x.png", data), ("request", None, b'{"prompt": "a"}')])
        yield Attack(f"form with {name}", (status,), headers=_dashed(headers), body=body)
        yield Attack(f"parameters of {name}", (status,), path="/api/parameters", body={"image": text(data)})
    for record in (
        "{",
        "[]",
        "5",
        "[" * 50_000,
        '{"model": 5, "request": 5}',
        '{"model": {}, "request": {"loras": 5}}',
    ):
        sent = {"image": text(recorded(record))}
        yield Attack(f"parameters: {record[:30]}", (400,), path="/api/parameters", body=sent)


def bodies() -> Iterator[Attack]:
    """Bodies that are large, slow, or not what they say."""
    json_type = {"content-type": "application/json"}
    for body in (
        *(b"", b"{", b"[]", b"5", b'"text"', b"null", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"{} {}", b"\0"),
        *(b'{"prompt": NaN}', b'{"steps": Infinity}', b'{"steps": -Infinity}', b'{"prompt": "\\ud800"}'),
        *(b'{"prompt": 1e999}', b'{"seed": ' + b"9" * 5000 + b"}", b"[" * 9000, b'{"a":' * 3000, b"[" * 2_000_000),
        *(b"[" + b"1," * 1_000_000 + b"1]", b"{" + b'"a":1,' * 300_000 + b'"a":1}'),
    ):
        yield Attack(f"json: {body[:24]!r} of {len(body)}", (400,), headers=json_type, body=body)
    squeezed = zlib.compress(b'{"prompt": "a"}')
    yield Attack("json: compressed", (400,), headers={**json_type, "content-encoding": "deflate"}, body=squeezed)
    good, headers = form([("request", None, b'{"prompt": "a"}')])
    kind = headers["content_type"]
    for name, body, each in (
        ("no boundary", good, "multipart/form-data"),
        ("an empty boundary", good, "multipart/form-data; boundary="),
        ("another boundary", good, "multipart/form-data; boundary=other"),
        ("a boundary of 5 kB", good, f"multipart/form-data; boundary={'x' * 5000}"),
        ("an unknown charset", form([("request", None, b"\xff")])[0], f"{kind}; charset=nonsense"),
        ("a charset of no text", form([("request", None, b"\xff")])[0], f"{kind}; charset=hex"),
        ("no form", b"nonsense", kind),
        ("no body", b"", kind),
        ("no end", good[:-10], kind),
        ("another field", form([("other", None, b"x")])[0], kind),
        ("a field without name", good.replace(b' name="request"', b""), kind),
        ("a name with a line", good.replace(b"request", b"re%0d%0aquest"), kind),
        ("half a JSON", form([("request", None, b"{")])[0], kind),
        ("no image", form([("image", "../../x.png", b"x")])[0], kind),
        ("70 fields", form([("request", None, b"{}")] * 70)[0], kind),
        ("70 files", form([("image", "x", b"x")] * 70)[0], kind),
        ("100,000 parts", form([("", None, b"")] * 40_000)[0], kind),
        ("a header of 1 MB", good.replace(b'"request"', b'"' + b"r" * MIB + b'"'), kind),
        ("10,000 headers", good.replace(b"\r\n\r\n", b"\r\nx: y" * 10_000 + b"\r\n\r\n", 1), kind),
    ):
        yield Attack(f"form: {name}", (400,), headers={"content-type": each}, body=body)
    large = b" " * (3 * MIB + 1)
    yield Attack("body: too large", (413,), headers=json_type, body=large)
    yield Attack("body: a form too large", (413,), headers=_dashed(headers), body=form([("image", "x", large)])[0])
    yield lines("a length that is too large", 413, Content_Length="99999999999")
    yield lines("a length of 26 digits", 400, Content_Length="9" * 26)
    pieces = b"".join(b"10000\r\n" + b" " * 65536 + b"\r\n" for _ in range(49))
    yield lines("chunks that are too large", 413, more=pieces, Transfer_Encoding="chunked")
    yield lines("a body that does not come", 408, more=b'{"prompt": ', Content_Length="100")
    yield lines("a chunk that does not come", 408, more=b"5\r\n{", Transfer_Encoding="chunked")
    yield lines("a form that does not come", 408, Content_Length="100", Content_Type=kind)
    yield Attack("slow: no header", (0,), raw=b"")
    yield Attack("slow: half a header", (0,), raw=b"GET /health HTTP/1.1\r\nHost: loc")


def values() -> Iterator[Attack]:
    """Arguments that no image has."""
    yield job("a prompt of 10^6 letters", prompt="x" * 10**6)
    yield job("a prompt of 10^6 words", prompt="a " * 500_000)
    yield job("a prompt of 10^6 brackets", prompt="(" * 10**6)
    yield job("a negative prompt of 10^6 letters", negative_prompt="x" * 10**6)
    yield job("10^5 prompts", prompt=["a"] * 100_000)
    for name, value in (
        *(("prompt", None), ("prompt", 5), ("prompt", {}), ("prompt", []), ("prompt", [None])),
        *(("steps", 10**9), ("steps", -1), ("steps", 1.5), ("steps", True), ("steps", "4"), ("steps", [4])),
        *(("width", 10**9), ("width", -8), ("width", 0), ("width", "64"), ("height", 2**63)),
        *(("seed", 2**64), ("seed", -1.5), ("seed", "x"), ("seed", [1.5]), ("num_images", 10**9)),
        *(("batches", 10**9), ("batches", 0), ("batches", True), ("batches", "2"), ("guidance_scale", "x")),
        *(
            ("sampler", "x" * 10**6),
            ("sampler", 5),
            ("strength", 1e308),
            ("loras", "x"),
            ("loras", [5]),
            ("loras", [{"y" * 10**6: 1}]),
        ),
        *(("levels", [1.0] * 10**5), ("__class__", 1), ("self", 1), ("x" * 10**6, 1), ("model", 5), ("session", 5)),
        *(("hires", 5), ("hires", {"scale": 1e9}), ("hires", {"y" * 10**6: 1}), ("hires", {"scale": "x"})),
    ):
        yield job(f"{name[:20]} {str(value)[:20]}", **{name: value})
    bodies: tuple[Any, ...] = ({"keep_guess": 1}, {"keep_guess": "yes"}, [])
    for body in bodies:
        yield Attack(f"cancel with {body}", (400, 404), path="/api/jobs/x/cancel", body=body)


def others() -> Iterator[Attack]:
    """The same in the protocols of others."""
    image = text(png(Image.new("RGB", (8, 8))))
    for url in (
        URL,
        "file:///etc/passwd",
        "/etc/passwd",
        f"data:image/png;base64,{URL}",
        {"url": URL},
        text(bomb(30_000, 30_000)),
    ):
        refused = (413,) if str(url).startswith("iVBOR") else (400, 422)
        shown = str(url)[:60]
        given: dict[str, dict[str, Any]] = {
            "init_images": {"init_images": [url]},
            "mask": {"init_images": [image], "mask": url},
        }
        for name, fields in given.items():
            yield Attack(f"sdapi: {name} {shown}", refused, path="/sdapi/v1/img2img", body={"prompt": "a", **fields})
        yield Attack(f"sdapi: png-info {shown}", refused, path="/sdapi/v1/png-info", body={"image": url})
        yield Attack(f"openai: image {shown}", refused, path="/v1/images/edits", body={"prompt": "a", "image": url})
        unit = {"image": url, "model": "../secret", "module": "none"}
        body = {"prompt": "a", "alwayson_scripts": {"ControlNet": {"args": [unit]}}}
        yield Attack(f"sdapi: control {shown}", (400, 404, 413, 422), path="/sdapi/v1/txt2img", body=body)
    for name in ("init_images", "control_images"):
        units: dict[str, Any] = {"alwayson_scripts": {"controlnet": {"args": [{"model": "x", "image": image}] * 17}}}
        several: dict[str, Any] = {"init_images": [image] * 17, "batch_size": 16}
        body = {"prompt": "a", **(several if name == "init_images" else units)}
        yield Attack(f"sdapi: 17 {name}", (422,), path="/sdapi/v1/img2img", body=body)
    for path, status in (("/sdapi/v1/txt2img", 422), ("/v1/images/generations", 400)):
        nested = b'{"prompt": "a", "x": ' + b"[" * 200 + b"]" * 200 + b"}"  # of a field that is ignored
        kind = {"content-type": "application/json"}
        yield Attack(f"{path}: 200 lists within each other", (status,), path=path, headers=kind, body=nested)
        for name, value in (
            ("prompt", "x" * 10**6),
            ("width", 10**9),
            ("steps", 10**9),
            ("batch_size", 10**9),
            ("n", 10**9),
        ):
            if name in {"/v1/images/generations": ("prompt", "steps", "n")}.get(
                path, ("prompt", "width", "steps", "batch_size")
            ):
                yield Attack(f"{path}: {name}", (status,), path=path, body={"prompt": "a", name: value})
        yield Attack(
            f"{path}: NaN", (400, 422), headers={"content-type": "application/json"}, path=path, body=b'{"a": NaN}'
        )
        yield Attack(
            f"{path}: too large", (413,), headers={"content-type": "text/plain"}, path=path, body=b" " * 4 * MIB
        )
    for name in ("../secret", "/etc/passwd", "x" * 100_000):
        shown = name[:20]
        override = {"prompt": "a", "override_settings": {"sd_model_checkpoint": name}}
        yield Attack(f"sdapi: model {shown}", (404,), path="/sdapi/v1/txt2img", body=override)
        yield Attack(f"sdapi: option {shown}", (404,), path="/sdapi/v1/options", body={"sd_model_checkpoint": name})
        yield Attack(
            f"sdapi: script {shown}", (422,), path="/sdapi/v1/txt2img", body={"prompt": "a", "script_name": name}
        )
        yield Attack(f"openai: a model {shown}", (404,), "GET", f"/v1/models/{name[:1000].replace('/', '%2f')}")


def tricks() -> Iterator[Attack]:
    """Headers that two readers may read in two ways."""
    size = "15"
    body = b'{"prompt": "a"}'
    yield lines("two lengths", 400, more=body, Content_Length="15", Content_Length_="2")
    yield lines("a list of lengths", 400, more=body, Content_Length="15, 2")
    yield lines("a negative length", 400, more=body, Content_Length="-1")
    yield lines("a signed length", 400, more=body, Content_Length="+15")
    yield lines("a length in hex", 400, more=body, Content_Length="0xf")
    yield lines("a length in other digits", 400, more=body, Content_Length="\xb2")
    yield lines(
        "length and chunks", 400, more=b"5\r\nhello\r\n0\r\n\r\n", Content_Length=size, Transfer_Encoding="chunked"
    )
    yield lines("two encodings", 400, 501, more=b"0\r\n\r\n", Transfer_Encoding="chunked, identity")
    yield lines("an unknown encoding", 400, 501, more=b"0\r\n\r\n", Transfer_Encoding="gzip")
    yield lines("chunks of a wrong length", 400, more=b"zz\r\n\r\n", Transfer_Encoding="chunked")
    yield lines("chunks of a negative length", 400, more=b"-1\r\n\r\n", Transfer_Encoding="chunked")
    yield lines("a header of 64 kB", 0, 400, 431, X="y" * 65536)
    yield lines("2,000 headers", 0, 400, 431, **{f"X_{n}": "yyyyyyyy" for n in range(2000)})
    yield lines("a null byte", 400, X="a\0b")
    yield lines("a line in a header", 400, X="a\nb: c")
    yield lines("a folded header", 400, 401, 415, X="a\r\n b", Content_Type="text/plain")
    yield lines("a space before the colon", 400, **{"X ": "a"})
    yield lines("no colon", 400, **{"X\r\nY": "a"})
    yield lines("a null byte in the path", 404, first="GET /api/jobs/%00 HTTP/1.1")
    yield lines("a bare null byte in the path", 400, first="GET /api/\0 HTTP/1.1")
    yield lines("a path of 64 kB", 0, 400, 404, 414, first=f"GET /{'x' * 65536} HTTP/1.1")
    yield lines("a method of 10 kB", 405, first=f"{'X' * 10_000} /api/jobs HTTP/1.1")
    yield lines("a method in small letters", 405, first="get /api/server HTTP/1.1")
    yield lines("an override of the method", 405, first="PUT /api/jobs HTTP/1.1", X_HTTP_Method_Override="POST")
    yield lines("CONNECT", 400, 404, 405, first="CONNECT evil.example:80 HTTP/1.1")
    yield lines("TRACE", 405, first="TRACE /api/server HTTP/1.1")
    yield lines("HTTP/0.9", 400, first="GET /health")
    yield lines("HTTP/9.9", 400, 404, 505, first="GET /api/none HTTP/9.9")
    yield lines("a web socket", 404, first="GET /api/none HTTP/1.1", Upgrade="websocket", Connection="Upgrade")
    yield lines("an unknown expectation", 400, 408, 417, Expect="nonsense", Content_Length="0")
    yield Attack("header: HTTP/2", (400, 421), raw=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    yield Attack("header: TLS", (400,), raw=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n")
    yield Attack("header: SMTP", (400,), raw=b"EHLO evil.example\r\nMAIL FROM:<a@b>\r\n\r\n")


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


TABLE = [*log_ins(), *pages(), *names(), *images(), *bodies(), *values(), *others(), *tricks()]
