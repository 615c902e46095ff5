"""What every request passes: an id, access, the bounds of its body, and errors as answers; one line in the log."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import SDXLError
from .access import check_access, is_allowed_origin, is_own_host
from .catalog import Catalog
from .metrics import Metrics
from .problems import Problem, problem_of, refuse, type_of
from .refusals import BusyError, TooLargeError
from .settings import MIB, Settings

OPEN = ("/health", "/ready")
"""The routes that need no log-in and no known name: those of probes, which ask by address and cannot keep a secret."""
_LOG = logging.getLogger("sdxl.serve.requests")
_GONE = 499  # nginx's status for a client that has gone away
_MOST_BODIES = 16  # of the largest size, which requests may hold together
_AGAIN_SECONDS = 5  # after which a client whose body has no room asks again
_PIECE = 64 * 1024  # bytes of an answer that are sent at a time
_NAMES = re.compile(r"[\w-]{1,100}(, ?[\w-]{1,100}){0,63}", re.ASCII)  # of headers
_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
_MESSAGES = {
    404: "there is no such address here; /api/openapi.json lists those of our own",
    405: "this address takes no such method; the header Allow lists those that it takes",
}
ErrorBody = Callable[[Problem], Mapping[str, Any]]


def error_body(problem: Problem) -> Mapping[str, Any]:
    """The shape of errors of our own routes."""
    return {"error": {"type": problem.type, "message": problem.message, "argument": problem.argument}}


class Guard:
    """An ASGI application around another one. `bodies` are the shapes of errors by the beginnings of paths."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        catalog: Catalog,
        metrics: Metrics,
        bodies: Sequence[tuple[str, ErrorBody]],
    ) -> None:
        self._app, self._settings, self._catalog, self._metrics, self._bodies = app, settings, catalog, metrics, bodies
        self._held = _Held(_MOST_BODIES * settings.max_body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = _Exchange(scope, send, self._settings)
        body: _Body | None = None
        try:
            response = self._before(scope, exchange)
            if response is None:
                body = _Body(scope, receive, self._settings, self._held)
                await self._app({**scope, "app": self}, body.receive, exchange.send)
            else:
                await response(scope, receive, exchange.send)
        except ClientDisconnect:
            exchange.status = exchange.status or _GONE
        except Exception as error:
            await self._answer(error, scope, receive, exchange)
        finally:
            if body is not None:
                body.release()
            self._metrics.add_request(exchange.status or _GONE)
            exchange.log()

    def _before(self, scope: Scope, exchange: _Exchange) -> Response | None:
        """The answer to a request that goes no further, if it does not. Raises `RefusedError`."""
        headers, method, path = Headers(scope=scope), scope["method"], scope["path"]
        asks = method == "OPTIONS" and "access-control-request-method" in headers
        if asks and is_own_host(headers.get("host", ""), self._settings) and exchange.origin is not None:
            return _preflight(headers)
        if path not in OPEN:
            check_access(headers, self._settings)
        return None

    async def _answer(self, error: Exception, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        problem = self._problem(error, exchange.id)
        if exchange.status is None:
            shape = next((body for prefix, body in self._bodies if scope["path"].startswith(prefix)), error_body)
            headers = {**problem.headers, "Cache-Control": "no-store"}
            await JSONResponse(dict(shape(problem)), problem.status, headers)(scope, receive, exchange.send)

    def _problem(self, error: Exception, id: str) -> Problem:
        if isinstance(error, HTTPException):
            message = _MESSAGES.get(error.status_code, error.detail)
            return Problem(error.status_code, type_of(error.status_code), message, None, error.headers or {})
        if isinstance(error, SDXLError):
            problem = problem_of(error)
            message = self._catalog.message(problem.message)
            return Problem(problem.status, problem.type, message, problem.argument, problem.headers)
        _LOG.error("request %s failed", id, exc_info=error)
        return Problem(500, "InternalError", f"an unexpected error; the log of the service has it under request {id}")


def _preflight(headers: Headers) -> Response:
    """What an allowed page may send: all headers that it asks for, since clients add ones of their own (OpenAI's for
    JavaScript nine).
    """
    asked = headers.get("access-control-request-headers", "")
    names = asked if _NAMES.fullmatch(asked) else "authorization, content-type, x-api-key"
    allowed = {"access-control-allow-methods": "GET, POST", "access-control-allow-headers": names}
    return Response(status_code=204, headers={**allowed, "access-control-max-age": "600"})


class _Exchange:
    """One request and its answer: what is added to its headers, and what the log says of it."""

    def __init__(self, scope: Scope, send: Send, settings: Settings) -> None:
        self.id, self._began = secrets.token_hex(6), time.perf_counter()
        self.status: int | None = None
        self._scope, self._send = scope, send
        origin = Headers(scope=scope).get("origin")
        self.origin = origin if origin is not None and is_allowed_origin(origin, settings) else None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.id
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if self.origin is not None:
                headers["access-control-allow-origin"] = self.origin
                headers["access-control-expose-headers"] = "x-request-id, retry-after"
                headers.add_vary_header("origin")
        body = message.get("body", b"")
        ends = range(_PIECE, len(body), _PIECE)
        for end in ends:  # the server waits for the reader before each piece, and holds no more than two
            await self._send({**message, "body": body[end - _PIECE : end], "more_body": True})
        rest = len(ends) * _PIECE
        await self._send({**message, "body": body[rest:]} if rest else message)

    def log(self) -> None:
        """One line, in which nothing that the client sent can begin another one."""
        path, method = quote(self._scope["path"], safe="/"), quote(self._scope["method"])
        client = (self._scope.get("client") or ("-",))[0]
        took = 1000 * (time.perf_counter() - self._began)
        _LOG.info("%s %s %s %s %s %.0f ms", self.id, client, method, path[:200], self.status or _GONE, took)


@dataclass
class _Held:
    """The bytes of the bodies of all requests that are not answered yet, and how many they may be."""

    most: int
    bytes: int = 0


class _Body:
    """The body of a request, of bounded size and time whatever its headers say."""

    def __init__(self, scope: Scope, receive: Receive, settings: Settings, held: _Held) -> None:
        self._receive, self._most, self._seconds = receive, settings.max_body, settings.body_seconds
        self._held = held
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers and "content-length" in headers:  # a proxy may see another end of the body
            raise refuse(400, "the body has a length and is in chunks too; send one of them", connection="close")
        if length.isdecimal() and int(length[:20]) > self._most:
            raise self._too_large()
        self._size, self._deadline, self._is_complete = 0, time.monotonic() + self._seconds, False

    async def receive(self) -> Message:
        if self._is_complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0, self._deadline - time.monotonic()))
        except asyncio.TimeoutError as error:
            self._is_complete = True
            raise refuse(408, f"the body did not arrive within {self._seconds:.0f} s; send it faster") from error
        size = len(message.get("body", b""))
        self._size += size
        self._held.bytes += size
        self._is_complete = not message.get("more_body", False)
        if self._size > self._most:
            self._is_complete = True
            raise self._too_large()
        if self._held.bytes > self._held.most:
            self._is_complete = True
            raise BusyError("the requests at present are too large together; ask again later", _AGAIN_SECONDS)
        return message

    def release(self) -> None:
        """Its request is answered: others may be as large again."""
        self._held.bytes -= self._size

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"the body is larger than {self._most / MIB:g} MiB; send smaller images")
