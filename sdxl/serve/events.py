"""The events of a job as a stream (server-sent events, WHATWG HTML section 9.2)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

from .job import Job, State
from .skin import states
from .views import failure_view, image_view, preview_url, step_view

_BEAT_SECONDS = 15.0  # between signs of life, against proxies and clients that close idle connections
BEAT = b": \n\n"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx would gather the events


async def events(job: Job) -> AsyncIterator[bytes]:
    """queued, step, image, then done, failed or cancelled. Who joins late gets all images, and the present step."""
    last: State | None = None
    async with aclosing(states_and_beats(job)) as changes:
        async for state in changes:
            if state is None:
                yield BEAT
                continue
            for name, data in _differences(job, last, state):
                yield f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
            last = state


async def states_and_beats(job: Job) -> AsyncGenerator[State | None, None]:
    """The states, and None where there is none for long: then a stream sends `BEAT`, a comment."""
    async with aclosing(states(job)) as each:
        while True:
            coming = asyncio.ensure_future(anext(each, None))
            try:
                while not (await asyncio.wait({coming}, timeout=_BEAT_SECONDS))[0]:
                    yield None
                state = coming.result()
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.wait({coming})
            if state is None:
                return
            yield state


def _differences(job: Job, last: State | None, state: State) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if state.status == "queued" and (last is None or last.place != state.place):
        yield "queued", {"place": state.place}
    for image in state.images[len(last.images) if last else 0 :]:
        yield "image", image_view(image)
    is_at_work = state.status == "running" and state.batch < max(job.batches, 1)
    if is_at_work and (last is None or _moment(last) != _moment(state)):
        preview = state.preview if last is None or last.preview is not state.preview else None
        yield "step", {**step_view(job, state), "preview": preview_url(preview)}
    if state.is_over:
        yield state.status, {"warnings": list(state.warnings), "error": failure_view(state.failure)}


def _moment(state: State) -> tuple[object, ...]:
    return state.status, state.stage, state.batch, state.step, id(state.preview)
