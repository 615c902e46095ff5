"""Answers to images/generations and images/edits: one object, or a stream of events with partial images."""

from __future__ import annotations

import asyncio
import io
import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from ...errors import SDXLError
from ..engine import Engine
from ..events import BEAT, states_and_beats
from ..job import Image, Job, State
from ..problems import Problem, problem_of, refuse
from ..skin import check, encoded
from .request import Asked

_EVENTS = {"generation": "image_generation", "edit": "image_edit"}
_CODES = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}
_USAGE = {
    "total_tokens": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}


def error_body(problem: Problem) -> Mapping[str, Any]:
    """The shape of OpenAI's errors."""
    kind = "server_error" if problem.status >= 500 else "invalid_request_error"
    code = _CODES.get(problem.status)
    return {"error": {"message": problem.message, "type": kind, "param": problem.argument, "code": code}}


def check_images(job: Job) -> None:
    """Raise `RefusedError` for a job that has failed, or that was cancelled before its first image."""
    check(job)
    if not job.state.images:
        raise refuse(409, "the job was cancelled")


def make_answer(job: Job, asked: Asked) -> dict[str, Any]:
    """The answer to a job that is over. It takes time."""
    images = job.state.images
    return {
        "created": int(job.created),
        "data": [_shown(each, asked) for each in images],
        **_facts(asked, images[0] if images else None),
        "usage": _USAGE,
    }


def _shown(image: Image, asked: Asked) -> dict[str, Any]:
    text = b64encode(_encode(image, asked)).decode()
    if asked.as_url:
        return {"url": f"data:image/{asked.format.lower()};base64,{text}", "seed": image.seed}
    return {"b64_json": text, "seed": image.seed}


def _facts(asked: Asked, image: Image | None) -> dict[str, Any]:
    size = {} if image is None else {"size": f"{image.width}x{image.height}"}
    return {"output_format": asked.format.lower(), "quality": asked.quality, "background": asked.background} | size


def _encode(image: Image, asked: Asked) -> bytes:
    """The file of an image, with its parameters. PNG has no loss, so a compression says nothing of it."""
    if asked.compression is None or asked.format == "PNG":
        return encoded(image, asked.format)
    from PIL import Image as Pillow

    exif = Pillow.open(io.BytesIO(encoded(image, asked.format))).info["exif"]
    data = io.BytesIO()
    pixels = Pillow.open(io.BytesIO(image.png)).convert("RGB")
    pixels.save(data, format=asked.format, quality=asked.compression, exif=exif)
    return data.getvalue()


async def events(engine: Engine, job: Job, asked: Asked) -> AsyncIterator[bytes]:
    """Partial images at equal distances, then each image as it is finished, or an error. Ends the job where the client
    goes away.
    """
    try:
        shown, finished = 0, 0
        async with aclosing(states_and_beats(job)) as changes:
            async for state in changes:
                if state is None:
                    yield BEAT
                    continue
                due = (shown + 1) / (asked.partial + 1)
                if state.preview is not None and shown < asked.partial and _share(state) >= due:
                    partial = await asyncio.to_thread(_partial, state.preview, asked)
                    yield _event("partial_image", asked, partial | {"partial_image_index": shown, "size": "auto"})
                    shown += 1
                for image in state.images[finished:]:
                    finished += 1
                    content = await asyncio.to_thread(_shown, image, asked)
                    yield _event("completed", asked, {**_facts(asked, image), **content, "usage": _USAGE})
        check_images(job)
    except SDXLError as error:
        body = {"type": "error", **error_body(problem_of(error))}
        yield f"event: error\ndata: {json.dumps(body)}\n\n".encode()
    finally:
        if not job.state.is_over:
            engine.cancel(job.id)


def _share(state: State) -> float:
    """How far the present image is."""
    return state.step / state.steps if state.steps else 0.0


def _partial(preview: bytes, asked: Asked) -> dict[str, Any]:
    """A preview in the format that is asked for."""
    from PIL import Image as Pillow

    data = io.BytesIO()
    Pillow.open(io.BytesIO(preview)).save(data, format=asked.format)
    return {"b64_json": b64encode(data.getvalue()).decode(), **_facts(asked, None)}


def _event(name: str, asked: Asked, content: Mapping[str, Any]) -> bytes:
    kind = f"{_EVENTS[asked.kind]}.{name}"
    return f"event: {kind}\ndata: {json.dumps({'type': kind, 'created_at': int(time.time()), **content})}\n\n".encode()
