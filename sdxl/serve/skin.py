"""The seam for skins: what speaks a client's protocol over the engine. This page is the contract of a skin.

A skin is a `Skin`: routes of Starlette, the beginning of their paths, and the shape of its errors. `app.SKINS` lists
the functions `(Service) -> Skin`; add yours there. Nothing else need change. Authentication, Host, Origin, CORS, the
bounds of bodies, request ids, the log and the metrics are done before a route sees a request, and every exception that
a route lets pass becomes an answer. A skin imports no torch at its top.

**Reading.** `body.read_json(request)` gives an object (`is_optional=True` where the body may be empty, `is_typed=False`
where clients send no Content-Type), without NaN.
`body.read_form(request, settings.max_body)` gives the texts and files of a multipart form. `uploads.from_base64(value,
name)` takes bare base64 and data URLs, and refuses addresses. Bytes of an image become an `Upload` by
`await service.upload(data, name)`, which checks and decodes them once. To look at or change pixels before the job
(an inverted mask), use `upload.open()` (PIL) in a function that `await service.work_on(function, ...)` calls in a
thread, and `service.upload` for the new bytes.

**Translating.** `service.make_work(fields, batches=, model=, origin=)` takes a dict of `sdxl.Request`'s fields (our
names, our meanings): `image` and `mask` are an `Upload` or a list of them, `loras` a list such as `[{"file": NAME,
"weight": 0.8}]` with names of `service.catalog.files("lora")`, `control` likewise `[{"net": NAME, "image": an
Upload}]`, and `reference` `[{"adapter": NAME, "image": an Upload}]`. Call it by `asyncio.to_thread` where names of
files are given: it looks at their folders. It raises `ArgumentError` with a sentence (400), and `UnknownError` for
names (404). `batches` (AUTOMATIC1111's n_iter) are calls one after the other, each with the next seeds; `num_images`
are the images of one call. A seed is always fixed: None is drawn here, and reported. `origin` is the skin's name.

**Running.** `job = await finished(request, service, work)` puts it into the queue and waits. It cancels the job where
the client goes away (`ClientDisconnect` is raised then; let it pass). It raises `RefusedError` where the job failed,
with the status that belongs to the error. A job that was cancelled or skipped returns: look at `job.state.status`.
Where a skin answers in pieces, use `job = service.engine.submit(work)` (`BusyError` 429, `ClosingError` 503), and
iterate over `async for state in states(job)`: the present state, then each newer one as soon as it comes (states may be
left out where the reader is slow), to the last. Cancel the job in a `finally` if it must not outlive the answer.

**Answering.** `job.state` (`job.State`) is a snapshot: status, place, stage, batch, step, steps, seconds_left, preview
(JPEG or None), warnings, `images`, `failure`. `job.progress` is 0 to 1. Each `job.Image` has `png` (with its parameters
in the chunks `parameters`, AUTOMATIC1111's text, and `sdxl`), `seed`, `width`, `height` and `parameters`, the record as
`sdxl.read_parameters` gives it, without paths. `parameters["request"]` has the arguments with all defaults filled in.
`encoded(image, "JPEG")` gives other formats. Never show a path: `service.catalog` has names.

**Acting on jobs.** `service.engine.cancel(id)` ends a job before its next step; `cancel(id, keep_guess=True)` makes an
image of its present guess first (AUTOMATIC1111's interrupt). `skip(id)` goes on with the next batch. `running` and
`waiting` list the present jobs; `job.work.origin` says whose they are. All are harmless for a job that is over.
`service.switch(model)` is a job that loads a model and makes it that of requests that name none; `service.model` is its
name, and `service.engine.loaded` those in memory. After `await wait(job)` its `state` says whether that worked.
`service.switching` is the switch to `service.model` where that is not over.

**Errors.** `Skin.error_body` gets each `Problem` (status, type, message, argument) under its prefix, also those of the
guard (401, 403, 404 of unknown routes, 405, 413, 429, 500). `refuse(status, message)` makes an error of a skin's own;
`UnknownError`, `ArgumentError` and the others may be raised as they are. Messages lose their paths before they leave.

**A page.** `static.page_routes(folder)` serves the files of a folder, `index.html` at `/`. `app` does so with
`sdxl/serve/page` where it exists. The page is of the same origin, so its requests need no CORS; the browser sends its
Basic login by itself, also with EventSource.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route

from .guard import ErrorBody, error_body
from .job import Image, Job, State
from .problems import Problem, RefusedError, status_of
from .service import Service
from .work import Work


@dataclass(frozen=True)
class Skin:
    """`prefix` is the beginning of the paths of `routes`, which are whole ones. `error_body` makes a problem JSON."""

    prefix: str
    routes: Sequence[Route]
    error_body: ErrorBody = error_body


async def finished(request: Request, service: Service, work: Work) -> Job:
    """The job of some work, when it is over. Raises `RefusedError` where it failed, `ClientDisconnect` where the client
    has gone away, which cancels it, and `BusyError` and `ClosingError`. The request's body must have been read.
    """
    job = service.engine.submit(work)
    waiting, gone = asyncio.ensure_future(wait(job)), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not job.state.is_over:
            raise ClientDisconnect
    finally:
        waiting.cancel()
        gone.cancel()
        if not job.state.is_over:
            service.engine.cancel(job.id)
    check(job)
    return job


def check(job: Job) -> None:
    """Raise `RefusedError` for a job that has failed."""
    if (failure := job.state.failure) is not None:
        raise RefusedError(Problem(status_of(failure.type), failure.type, failure.message, failure.argument))


async def wait(job: Job) -> None:
    """Wait until a job is over."""
    async for _ in states(job):
        pass


async def states(job: Job) -> AsyncGenerator[State, None]:
    """The present state of a job and each newer one, to the last. Slow readers get the newest, not each."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(changed.set)

    unwatch = job.watch(tell)
    try:
        while True:
            changed.clear()
            state = job.state
            yield state
            if state.is_over:
                return
            await changed.wait()
    finally:
        unwatch()


async def _gone(request: Request) -> None:
    """Wait until the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def encoded(image: Image, format: str) -> bytes:
    """An image as JPEG or WEBP with its parameters; as PNG it is there already. It takes some time. Raises
    `OutputError`.
    """
    if format == "PNG":
        return image.png
    from PIL import Image as Pillow

    from ..images.record import encode_image

    return encode_image(Pillow.open(io.BytesIO(image.png)).convert("RGB"), image.parameters, format)
