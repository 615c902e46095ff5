"""A local stand-in for the Hugging Face hub: one repository, served from a folder."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves `folder` as the model `name`; `requested` lists the files that were downloaded."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder, self.requested = name, folder, set[str]()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = request.path.split("?")[0]
        for revision in ("main", COMMIT):
            if path in (f"/api/models/{self.name}", f"/api/models/{self.name}/revision/{revision}"):
                names = [{"rfilename": name} for name in self.files()]
                data = {"id": self.name, "sha": COMMIT, "siblings": names, "private": False, "tags": [], "downloads": 0}
                return self.send(request, json.dumps(data).encode(), {"Content-Type": "application/json"}, body)
            if path.startswith(f"/api/models/{self.name}/tree/{revision}"):
                tree = [
                    {"type": "file", "path": name, "size": (self.folder / name).stat().st_size, "oid": "0" * 40}
                    for name in self.files()
                ]
                return self.send(request, json.dumps(tree).encode(), {"Content-Type": "application/json"}, body)
            prefix = f"/{self.name}/resolve/{revision}/"
            if path.startswith(prefix) and (self.folder / path[len(prefix) :]).is_file():
                data = (self.folder / path[len(prefix) :]).read_bytes()
                headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
                if body:
                    self.requested.add(path[len(prefix) :])
                return self.send(request, data, headers, body)
        known = path.startswith((f"/{self.name}/", f"/api/models/{self.name}"))
        code = ("RevisionNotFound" if "/revision/" in path else "EntryNotFound") if known else "RepoNotFound"
        return self.send(request, b"{}", {"X-Error-Code": code, "X-Error-Message": "not found"}, body, 404)

    def send(
        self, request: BaseHTTPRequestHandler, data: bytes, headers: dict[str, str], body: bool, status: int = 200
    ) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if body:
            request.wfile.write(data)
