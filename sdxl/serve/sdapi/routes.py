"""The routes of AUTOMATIC1111's API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...errors import ArgumentError, SDXLError
from ..answers import json_answer
from ..body import read_json
from ..given import Given
from ..problems import Problem, RefusedError, problem_of
from ..service import Service
from ..skin import Skin, check, finished, wait
from ..uploads import from_base64
from . import lists
from .answer import make_answer
from .controlnet import LISTS, SCRIPT
from .names import in_their_words, model_name
from .progress import ORIGIN, mine, progress_view, task_view
from .request import read_request

_TEXTS = {"NotFound": "Not Found", "MethodNotAllowed": "Method Not Allowed"}  # of routes, which clients compare


@dataclass
class _Options:
    """The settings that clients change for all later requests, beside the model."""

    clip_skip: int = 1


@dataclass(frozen=True)
class _Server:
    service: Service
    options: _Options = field(default_factory=_Options)


Answer = Callable[[_Server, Request], Awaitable[Any]]


def skin(service: Service) -> Skin:
    """The routes below `/sdapi/v1/`."""
    server = _Server(service)
    routes = [_route(f"/sdapi/v1/{name}", method, call, server) for (method, name), call in _CALLS.items()]
    return Skin("/sdapi/", routes, error_body)


def internal(service: Service) -> Skin:
    """The progress of one task, as AUTOMATIC1111's own page asks for it."""
    server = _Server(service)
    routes = [
        _route("/internal/progress", "POST", _task, server),
        _route("/internal/ping", "GET", partial(_constant, {}), server),
    ]
    return Skin("/internal/", routes, error_body)


def extension(service: Service) -> Skin:
    """The lists of the extension ControlNet, whose presence says that there is one."""
    server, made = _Server(service), LISTS if service.catalog.control_dir else {}
    routes = [_route(f"/controlnet/{name}", "GET", partial(_listed, make), server) for name, make in made.items()]
    return Skin("/controlnet/", routes, error_body)


def error_body(problem: Problem) -> Mapping[str, Any]:
    """The shape of AUTOMATIC1111's errors, of which clients read `detail`."""
    detail = _TEXTS.get(problem.type, problem.message)
    return {"error": problem.type, "detail": detail, "body": "", "errors": detail}


def _route(path: str, method: str, call: Answer, server: _Server) -> Route:
    async def answer(request: Request) -> Response:
        try:
            return json_answer(await call(server, request))
        except SDXLError as error:
            problem = problem_of(error)
            if problem.status != 400:
                raise
            raise RefusedError(replace(problem, status=422, message=in_their_words(problem.message))) from error

    return Route(path, answer, methods=[method])


async def _read(request: Request) -> dict[str, Any]:
    """The body. Scripts that send `data=json.dumps(...)` give it no type, and AUTOMATIC1111 takes that as JSON. Pages
    of other origins, which could do so too, are refused before.
    """
    return await read_json(request, is_typed=False)


# ---- images


async def _generate(has_image: bool, server: _Server, request: Request) -> Any:
    body = await _read(request)
    asked = await read_request(server.service, body, has_image, server.options.clip_skip)
    job = await finished(request, server.service, asked.work)
    return await asyncio.to_thread(make_answer, job, asked)


async def _progress(server: _Server, request: Request) -> Any:
    skips_image = Given(request.query_params).flag("skip_current_image")
    return progress_view(server.service.engine, not skips_image)


async def _task(server: _Server, request: Request) -> Any:
    given = Given(await _read(request))
    name = given.text("id_task")
    if not name:
        raise ArgumentError("id_task is missing; give the force_task_id of a request")
    return task_view(server.service.engine, name, given.flag("live_preview", True))


async def _interrupt(server: _Server, request: Request) -> Any:
    """The running jobs end with their present guess; those that wait are not touched."""
    engine = server.service.engine
    for job in mine(engine.running):
        engine.cancel(job.id, keep_guess=True)
    return {}


async def _skip(server: _Server, request: Request) -> Any:
    engine = server.service.engine
    for job in mine(engine.running):
        engine.skip(job.id)
    return {}


async def _png_info(server: _Server, request: Request) -> Any:
    from .png_info import png_info

    given = await _read(request)
    upload = await server.service.upload(from_base64(given.get("image"), "image"), "image")
    return await asyncio.to_thread(png_info, upload)


# ---- settings and lists


async def _get_options(server: _Server, request: Request) -> Any:
    return lists.options(server.service, server.options.clip_skip)


async def _set_options(server: _Server, request: Request) -> Any:
    """A model is loaded before the answer comes. Unknown settings are accepted: clients send back all that they got."""
    given, service = Given(await _read(request)), server.service
    clip_skip = given.whole("CLIP_stop_at_last_layers", server.options.clip_skip)
    if not 1 <= clip_skip <= 12:
        raise ArgumentError(f"CLIP_stop_at_last_layers is {clip_skip}; expected 1 to 12")
    model = model_name(service, given.text("sd_model_checkpoint"))
    server.options.clip_skip = clip_skip
    if model is not None and not await _is_current(service, model):
        job = service.switch(model, ORIGIN)
        await wait(job)
        check(job)
    return None


async def _is_current(service: Service, model: str) -> bool:
    """Whether a model is that of requests that name none, when a switch to it is done which another client began."""
    if model == service.model and (job := service.switching) is not None:
        await wait(job)
    return model == service.model


async def _listed(make: Callable[[Service], Any], server: _Server, request: Request) -> Any:
    return await asyncio.to_thread(make, server.service)


async def _table(make: Callable[[], Any], server: _Server, request: Request) -> Any:
    return make()


async def _scripts(server: _Server, request: Request) -> Any:
    names = [] if server.service.catalog.control_dir is None else [SCRIPT]
    return {"txt2img": names, "img2img": names}


async def _constant(value: Any, server: _Server, request: Request) -> Any:
    return value


_EMPTY = (
    "sd-vae",
    "hypernetworks",
    "face-restorers",
    "realesrgan-models",
    "prompt-styles",
    "script-info",
    "extensions",
)
_REFRESHING = (
    "refresh-checkpoints",
    "refresh-vae",
    "refresh-loras",
    "refresh-embeddings",
    "unload-checkpoint",
    "reload-checkpoint",
)
_CALLS: dict[tuple[str, str], Answer] = {
    ("POST", "txt2img"): partial(_generate, False),
    ("POST", "img2img"): partial(_generate, True),
    ("GET", "progress"): _progress,
    ("POST", "interrupt"): _interrupt,
    ("POST", "skip"): _skip,
    ("GET", "options"): _get_options,
    ("POST", "options"): _set_options,
    ("POST", "png-info"): _png_info,
    ("GET", "samplers"): partial(_table, lists.samplers),
    ("GET", "schedulers"): partial(_table, lists.schedulers),
    ("GET", "upscalers"): partial(_listed, lists.upscalers),
    ("GET", "latent-upscale-modes"): partial(_table, lists.latent_upscalers),
    ("GET", "memory"): partial(_table, lists.memory),
    ("GET", "sd-models"): partial(_listed, lists.models),
    ("GET", "loras"): partial(_listed, lists.loras),
    ("GET", "embeddings"): partial(_listed, lists.embeddings),
    ("GET", "scripts"): _scripts,
    ("GET", "cmd-flags"): partial(_constant, {}),
    **{("GET", name): partial(_constant, []) for name in _EMPTY},
    **{("POST", name): partial(_constant, {}) for name in _REFRESHING},
}
