"""Our own skin, `/api/*`, and the routes of operation: `/health`, `/ready`, `/metrics`. The page uses these."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ..adapters.control import type_names
from ..adapters.kind import Name
from ..errors import ArgumentError, brief
from ..images.parameters import Parameters
from ..images.upscalers import UPSCALERS, a1111_name
from ..sampling.presets import PRESETS
from ..sampling.samplers import SAMPLERS
from ..sampling.schedules import SCHEDULES
from ..version import __version__
from .again import again
from .answers import NO_STORE, json_answer
from .body import is_form, read_form, read_json
from .events import HEADERS, events
from .job import Job
from .job_body import read_job
from .openapi import ENDPOINTS, describe
from .problems import refuse
from .refusals import UnknownError
from .service import Service
from .skin import Skin
from .uploads import Upload, decoded
from .views import job_view

_OWN = ("batches", "model", "session")  # what a job has beside the fields of Request
_SESSION = re.compile(r"[\w-]{1,64}")
_FILE = re.compile(r"([\w-]+)-(\d{1,4})\.png")
Answer = Callable[[Service, Request], Awaitable[Response]]


def skin(service: Service) -> Skin:
    """The routes of `openapi.ENDPOINTS`."""
    routes = [
        Route(each.path, partial(_CALLS[each.name], service), methods=[each.method], name=each.name)
        for each in ENDPOINTS
    ]
    return Skin("/api/", routes)


# ---- operation


async def _health(service: Service, request: Request) -> Response:
    return json_answer({"status": "ok"})


async def _ready(service: Service, request: Request) -> Response:
    engine = service.engine
    status = "closing" if engine.is_closing else "ready" if engine.is_ready else "loading"
    return json_answer({"status": status}, 200 if engine.is_ready else 503)


async def _metrics(service: Service, request: Request) -> Response:
    engine = service.engine
    text = engine.metrics.text(len(engine.waiting), len(engine.running), engine.is_ready)
    return Response(text, media_type="text/plain; version=0.0.4", headers=NO_STORE)


# ---- jobs


async def _create(service: Service, request: Request) -> Response:
    given = await read_job(service, request)
    own = {name: given.pop(name) for name in _OWN if given.get(name) is not None}
    for name in ("model", "session"):
        if not isinstance(own.get(name, ""), str):
            raise ArgumentError(f"{name} is {brief(own[name])}; expected a text")
    if "session" in own:
        _check_session(own["session"])
    return _started(service.engine.submit(await asyncio.to_thread(service.make_work, given, **own)))


def _started(job: Job) -> Response:
    return json_answer(job_view(job), 202, {"Location": f"/api/jobs/{job.id}"})


async def _list(service: Service, request: Request) -> Response:
    session = request.query_params.get("session")
    if session is not None:
        _check_session(session)
    return json_answer({"jobs": [job_view(job) for job in service.engine.jobs(session)]})


async def _get(service: Service, request: Request) -> Response:
    return json_answer(job_view(_job(service, request)))


async def _cancel(service: Service, request: Request) -> Response:
    options = _only(await read_json(request, is_optional=True), "keep_guess")
    keep_guess = options.get("keep_guess", False)
    if not isinstance(keep_guess, bool):
        raise refuse(400, f"keep_guess is {brief(keep_guess)}; expected true or false")
    return json_answer(job_view(service.engine.cancel(_job(service, request).id, keep_guess)))


async def _skip(service: Service, request: Request) -> Response:
    return json_answer(job_view(service.engine.skip(_job(service, request).id)))


async def _events(service: Service, request: Request) -> Response:
    return StreamingResponse(events(_job(service, request)), media_type="text/event-stream", headers=HEADERS)


async def _file(service: Service, request: Request) -> Response:
    name = _FILE.fullmatch(request.path_params["name"])
    images = service.engine.get(name[1]).state.images if name else ()
    image = next((each for each in images if each.name == request.path_params["name"]), None)
    if image is None:
        raise UnknownError("there is no image of this name; it is forgotten, or never was")
    headers = {"Content-Disposition": f'inline; filename="{image.name}"', "Cache-Control": "private, max-age=3600"}
    return Response(image.png, media_type="image/png", headers=headers)


def _job(service: Service, request: Request) -> Job:
    return service.engine.get(request.path_params["id"])


def _only(given: dict[str, Any], name: str) -> dict[str, Any]:
    """What is given, if it is nothing beside one argument. Raises `ArgumentError`."""
    if unknown := [each for each in given if each != name]:
        raise ArgumentError(f"{brief(unknown[0])} is not an argument; expected {name}")
    return given


def _check_session(session: str) -> None:
    if not _SESSION.fullmatch(session):
        raise ArgumentError(f"session is {brief(session)}; expected 1 to 64 letters, digits, - and _")


# ---- what can be named


async def _models(service: Service, request: Request) -> Response:
    loaded = service.engine.loaded
    models = [
        {
            "name": name,
            "is_default": name == service.model,
            "is_loaded": name in loaded,
            "defaults": service.engine.defaults(name),
        }
        for name in service.catalog.models
    ]
    return json_answer({"models": models})


async def _switch(service: Service, request: Request) -> Response:
    given = _only(await read_json(request), "model")
    if not isinstance(given.get("model"), str):
        raise ArgumentError(f"model is {brief(given.get('model'))}; expected a name")
    return _started(service.switch(given["model"]))


async def _files(kind: Name, service: Service, request: Request) -> Response:
    """The files of a kind, under the name of their list."""
    files = await asyncio.to_thread(service.catalog.files, kind)
    named = [{"name": name, "file": each.path.name} for name, each in files.items()]
    return json_answer({f"{kind}s": named})


async def _controls(service: Service, request: Request) -> Response:
    from ..images.preprocess import PREPROCESSORS

    files = await asyncio.to_thread(service.catalog.files, "control")
    controls = [
        {"name": name, "file": each.path.name, "types": type_names(each.kind.types)} for name, each in files.items()
    ]
    return json_answer({"controls": controls, "preprocessors": list(PREPROCESSORS)})


async def _samplers(service: Service, request: Request) -> Response:
    samplers = [{"name": name, "a1111": each.a1111, "options": dict(each.options)} for name, each in SAMPLERS.items()]
    schedules = [{"name": name, "a1111": each.a1111} for name, each in SCHEDULES.items()]
    networks = await asyncio.to_thread(service.catalog.files, "upscaler")
    upscalers = [{"name": name, "a1111": a1111_name(name)} for name in (*UPSCALERS, *networks)]
    presets = list(PRESETS)
    return json_answer({"samplers": samplers, "schedules": schedules, "upscalers": upscalers, "presets": presets})


async def _server(service: Service, request: Request) -> Response:
    settings = service.settings
    names = ("queue", "max_pixels", "max_steps", "max_images", "max_body")
    limits = {name: getattr(settings, name) for name in names} | {"letters": settings.letters}
    counts = {"waiting": len(service.engine.waiting), "running": len(service.engine.running)}
    return json_answer({"version": __version__, "is_ready": service.engine.is_ready, "limits": limits, **counts})


async def _parameters(service: Service, request: Request) -> Response:
    if is_form(request):
        files = (await read_form(request, service.settings.max_body)).files.get("image", [])
    else:
        files = decoded(_only(await read_json(request), "image").get("image"), "image")
    if len(files) != 1:
        raise ArgumentError(f"image is given {len(files)} times; expected one image file")
    upload = await service.upload(files[0], "image")
    recorded = await asyncio.to_thread(_recorded, upload)
    try:
        return json_answer(await asyncio.to_thread(again, recorded, service.catalog))
    except (TypeError, ValueError, LookupError, RecursionError) as error:
        raise ArgumentError("image has damaged parameters; give another image of sdxl") from error


def _recorded(upload: Upload) -> Parameters:
    """The parameters in an image."""
    from ..images.record import parameters_in
    from ..images.texts import find_texts

    try:
        return parameters_in(find_texts(upload.data), "the file")
    except ArgumentError as error:
        raise ArgumentError(f"image: {error}") from error


async def _openapi(service: Service, request: Request) -> Response:
    return json_answer(describe())


_CALLS: Mapping[str, Answer] = {
    "health": _health,
    "ready": _ready,
    "metrics": _metrics,
    "create_job": _create,
    "list_jobs": _list,
    "get_job": _get,
    "cancel_job": _cancel,
    "skip_batch": _skip,
    "job_events": _events,
    "get_file": _file,
    "list_models": _models,
    "switch_model": _switch,
    "list_loras": partial(_files, "lora"),
    "list_embeddings": partial(_files, "embedding"),
    "list_controls": _controls,
    "list_references": partial(_files, "reference"),
    "list_samplers": _samplers,
    "server": _server,
    "read_parameters": _parameters,
    "openapi": _openapi,
}
