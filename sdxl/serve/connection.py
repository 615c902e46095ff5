"""Connections. uvicorn's wait without end for the header of a request, for a body that nobody reads, and for a client
that does not read its answer; ours do not.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def connections(head_seconds: float, read_seconds: float) -> type[H11Protocol]:
    """The protocol of connections whose next request must have begun `head_seconds` after its first byte. They are cut
    where what waits to be read (64 KiB, and as much of the next piece) is not read in `read_seconds`.
    """

    class Connection(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None
        _reading: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            self._end_reading()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._expect_reading()

        def resume_writing(self) -> None:
            self._end_reading()
            super().resume_writing()

        def timeout_keep_alive_handler(self) -> None:
            """Close it, which waits for the client to read the end of its answer."""
            super().timeout_keep_alive_handler()
            self._expect_reading()

        def _expect_reading(self) -> None:
            if self._reading is None:
                self._reading = self.loop.call_later(read_seconds, self.transport.abort)

        def _end_reading(self) -> None:
            if self._reading is not None:
                self._reading.cancel()
                self._reading = None

        def send_400_response(self, msg: str) -> None:
            """Answer to what is no HTTP. An answer that has begun cannot become another one."""
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                super().send_400_response(msg)
            else:
                self.transport.close()

        def _watch(self) -> None:
            """Begin the time of a header, or end it: a request is there, and the application bounds its body."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._unwatch()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(head_seconds, self.timeout_keep_alive_handler)

        def _unwatch(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Connection
