"""The process of a service: it listens at once, loads the model then, and ends when it is asked to."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from importlib.util import find_spec
from types import FrameType
from typing import Any

from ..errors import OutputError, SDXLError
from .service import Service
from .settings import Settings

_EXTRA = ("starlette", "uvicorn", "multipart")
_CONNECTIONS = 512
_BACKLOG = 512
_KEEP_ALIVE = 15  # seconds that an idle connection stays
_ANSWER_SECONDS = 5  # that the last answers have to leave
_COLLECT_SECONDS = 2.0  # in which clients can get the last images
_STEP_SECONDS = 60.0  # that a cancelled step has to end
_ACCEPT_SECONDS = 0.01  # until what has connected is known
_LAST_SECONDS = 0.1  # in which a client that has just connected gets its answer
_LOG = logging.getLogger("sdxl.serve")


def check_extra() -> None:
    """Raise `SDXLError` where the packages of the extra `serve` are not installed."""
    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        raise SDXLError(f'the service needs {missing[0]}, which is not installed; run pip install "sdxl-torch[serve]"')


def listen(settings: Settings) -> socket.socket:
    """A socket that accepts connections. Raises `OutputError`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"{settings.host}:{settings.port} cannot be listened on: {reason}; try another --port or --host"
        ) from error
    listener.setblocking(False)
    return listener


def address(listener: socket.socket) -> str:
    """The address of a page that is served on a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Process:
    """A service that serves. `close` may be called by any thread and by a signal's handler."""

    def __init__(self, service: Service, listener: socket.socket) -> None:
        self._service, self._listener = service, listener
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()
        self._calls = 0
        self._is_asked = False  # to close, perhaps before there was a loop

    def run(self) -> int:
        """Serve until `close`; the exit status."""
        return asyncio.run(self._serve())

    def close(self) -> None:
        """End the service when its running image is finished; called again, before its next step. It may be called
        before `run` and after it.
        """
        self._is_asked = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        self._calls += 1
        self._closing.set()
        if self._calls > 1:
            self._service.engine.stop()

    async def _serve(self) -> int:
        import uvicorn

        from .app import make_app
        from .connection import connections

        engine, settings = self._service.engine, self._service.settings
        self._loop = asyncio.get_running_loop()
        if self._is_asked:
            self._close()
        engine.on_fault(self.close)
        config = uvicorn.Config(
            make_app(self._service),
            http=connections(settings.head_seconds, settings.read_seconds),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_ANSWER_SECONDS,
        )
        server = _server(uvicorn.Server(config), self.close)
        serving = asyncio.ensure_future(server.serve(sockets=[self._listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        self._service.start()  # torch is imported from here on, while /health answers
        closing = asyncio.ensure_future(self._closing.wait())
        await asyncio.wait({serving, closing}, return_when=asyncio.FIRST_COMPLETED)
        closing.cancel()
        await self._drain()
        for accepting in server.servers:  # uvicorn would end what has just connected with them
            accepting.close()
        await asyncio.sleep(_ACCEPT_SECONDS)
        if server.server_state.connections:
            await asyncio.sleep(_LAST_SECONDS)
        server.should_exit = True
        await serving
        for worker in self._service.workers:
            await asyncio.to_thread(worker.join, 0.0 if engine.fault else _ANSWER_SECONDS)
        if engine.fault is not None:
            _LOG.error("the service ends: %s", engine.fault[1])
            return engine.fault[0]
        return 0

    async def _drain(self) -> None:
        """Refuse new work, and let the running image finish for a while."""
        engine, settings = self._service.engine, self._service.settings
        is_at_work = bool(engine.running)
        engine.close()
        if engine.fault is None and not await asyncio.to_thread(engine.wait_idle, settings.grace):
            engine.stop()
            await asyncio.to_thread(engine.wait_idle, _STEP_SECONDS)
        collects = is_at_work and engine.fault is None and self._calls == 1
        # 0: those who wait for jobs answer before the server looks for open answers
        await asyncio.sleep(_COLLECT_SECONDS if collects else 0)


def _server(server: Any, close: Callable[[], None]) -> Any:
    """uvicorn's server, whose signals end the work first: it would stop listening, and new requests get no answer."""

    def handle_exit(number: int, frame: FrameType | None) -> None:
        close()

    server.handle_exit = handle_exit
    return server
