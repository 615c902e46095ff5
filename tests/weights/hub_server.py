"""A local stand-in for the Hugging Face hub: one repository, served from a folder, with faults on request."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Fault:
    """The fault of one request: another answer, a body cut off after `cut` bytes (by a reset, if `reset`), or no
    answer."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut: int | None = None
    reset: bool = False
    no_answer: bool = False


class Hub:
    """Serves `folder` as the model `name`.

    `faults` has, for "GET vae/config.json" and the like ("GET api" for the listing), one entry per request: a `Fault`,
    or None for a good answer; good answers follow. `requested` lists the files that were downloaded, `ranges` where
    each download of a file began, and `sent` the number of its bytes. `sizes` replace sizes of files in the listing.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.closing = threading.Event()
        self.reset()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def reset(self) -> None:
        """Forget the faults and the requests."""
        self.faults: dict[str, Iterator[Fault | None]] = {}
        self.requested: set[str] = set()
        self.ranges: dict[str, list[int]] = {}
        self.sent: dict[str, int] = {}
        self.sizes: dict[str, int] = {}

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def files(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def size(self, name: str) -> int:
        return self.sizes.get(name, (self.folder / name).stat().st_size)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.split("?")[0]
        for revision in ("main", COMMIT):
            if path in (f"/api/models/{self.name}", f"/api/models/{self.name}/revision/{revision}"):
                names: list[dict[str, object]] = [{"rfilename": name} for name in self.files()]
                if "blobs=true" in request.path.lower():
                    names = [each | {"size": self.size(str(each["rfilename"]))} for each in names]
                data = {"id": self.name, "sha": COMMIT, "siblings": names, "private": False, "tags": [], "downloads": 0}
                headers = {"Content-Type": "application/json"}
                return self.send(request, "api", 200, headers, json.dumps(data).encode())
            prefix = f"/{self.name}/resolve/{revision}/"
            if path.startswith(prefix) and (self.folder / path[len(prefix) :]).is_file():
                return self.send_file(request, path[len(prefix) :])
        if path.startswith("/storage/"):
            return self.send_content(request, path.removeprefix("/storage/"), {})
        known = path.startswith((f"/{self.name}/", f"/api/models/{self.name}"))
        code = ("RevisionNotFound" if "/revision/" in path else "EntryNotFound") if known else "RepoNotFound"
        return self.send(request, "", 404, {"X-Error-Code": code, "X-Error-Message": "not found"}, b"{}")

    def send_file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        """A file, named by its hash as on the hub; weights lie in a storage on another host."""
        data = (self.folder / name).read_bytes()
        if not name.endswith(".safetensors"):
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            return self.send_content(request, name, {"ETag": f'"{git}"', "X-Repo-Commit": COMMIT})
        headers = {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
        headers |= {"X-Repo-Commit": COMMIT, "Location": f"http://localhost:{self.server.server_port}/storage/{name}"}
        return self.send(request, name if request.command == "HEAD" else "", 302, headers, b"")

    def send_content(self, request: BaseHTTPRequestHandler, name: str, headers: dict[str, str]) -> None:
        """The content of a file, or the end of it that the request wants."""
        data = (self.folder / name).read_bytes()
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start:
            headers = headers | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        if request.command == "GET":
            self.requested.add(name)
            self.ranges.setdefault(name, []).append(start)
        self.send(request, name, 206 if start else 200, headers, data[start:])

    def send(
        self, request: BaseHTTPRequestHandler, name: str, status: int, headers: dict[str, str], data: bytes
    ) -> None:
        fault = next(self.faults.get(f"{request.command} {name}", iter(())), None) or Fault()
        if fault.no_answer:
            self.closing.wait()
            return
        if fault.status or fault.body is not None:
            status, headers, data = fault.status or 200, fault.headers, fault.body or b""
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command == "GET":
            body = data[: fault.cut]
            self.sent[name] = self.sent.get(name, 0) + len(body)
            request.wfile.write(body)
        if fault.reset:
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()
