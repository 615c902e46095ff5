"""The files of the page, read once, with headers that let them load nothing from other hosts."""

from __future__ import annotations

import hashlib
import mimetypes
import os
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def page_routes(folder: Path) -> list[Route]:
    """A route for each file of a folder and of those in it, and `/` for its index.html."""
    files = [path for path in sorted(folder.rglob("*")) if os.path.isfile(path) and not path.name.startswith(".")]
    routes = [_route(f"/{path.relative_to(folder).as_posix()}", path) for path in files]
    return [*routes, *(_route("/", path) for path in files if path == folder / "index.html")]


def _route(url: str, path: Path) -> Route:
    data = path.read_bytes()
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Security-Policy": _POLICY}

    async def send(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=kind, headers=headers)

    return Route(url, send, methods=["GET"])
