"""The routes of OpenAI's API of images."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ..answers import json_answer
from ..body import is_form, read_form, read_json
from ..events import HEADERS
from ..given import Given
from ..service import Service
from ..skin import Skin, finished
from ..uploads import decoded
from .answer import check_images, error_body, events, make_answer
from .edits import read_sources
from .request import Asked, read_request

_STARTED = int(time.time())
_IMAGES = ("image", "image[]", "mask")


def skin(service: Service) -> Skin:
    """The routes below `/v1/`."""
    calls: list[tuple[str, str, Callable[[Service, Request], Awaitable[Response]]]] = [
        ("POST", "/v1/images/generations", _generate),
        ("POST", "/v1/images/edits", _edit),
        ("GET", "/v1/models", _models),
        ("GET", "/v1/models/{id:path}", _model),
    ]
    return Skin("/v1/", [Route(path, partial(call, service), methods=[way]) for way, path, call in calls], error_body)


async def _generate(service: Service, request: Request) -> Response:
    given, _ = await _read(service, request)
    return await _answer(service, request, read_request(service, given, "generation", {}))


async def _edit(service: Service, request: Request) -> Response:
    given, files = await _read(service, request)
    sources = await read_sources(service, given, files)
    return await _answer(service, request, read_request(service, given, "edit", sources))


async def _read(service: Service, request: Request) -> tuple[Given, dict[str, list[bytes]]]:
    """The fields and the files of a form, or of an object of JSON with images in base64."""
    if is_form(request):
        form = await read_form(request, service.settings.max_body)
        return Given({name: values[-1] for name, values in form.texts.items()}), form.files
    body = await read_json(request)
    files = {name: decoded(body[name], name) for name in _IMAGES if body.get(name) is not None}
    return Given(body), files


async def _answer(service: Service, request: Request, asked: Asked) -> Response:
    if asked.streams:
        job = service.engine.submit(asked.work)
        return StreamingResponse(events(service.engine, job, asked), media_type="text/event-stream", headers=HEADERS)
    job = await finished(request, service, asked.work)
    check_images(job)
    return json_answer(await asyncio.to_thread(make_answer, job, asked))


async def _models(service: Service, request: Request) -> Response:
    return json_answer({"object": "list", "data": [_view(name) for name in service.catalog.models]})


async def _model(service: Service, request: Request) -> Response:
    return json_answer(_view(service.catalog.model(request.path_params["id"])))


def _view(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _STARTED, "owned_by": "sdxl"}
