"""The routes of our own skin, and their description in OpenAPI 3.1, made from them and from the fields of `Request`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from ..pipeline.argument_groups import SOURCES
from ..pipeline.request import Request
from ..version import __version__
from .guard import OPEN

Schema = dict[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """A route: its name, and what it takes and gives. `body` and `answer` name schemas, or types of media; `errors` are
    the statuses that it can have beside those of every route.
    """

    method: str
    path: str
    name: str
    summary: str
    answer: str
    status: int = 200
    body: str | None = None
    errors: tuple[int, ...] = ()


ENDPOINTS = (
    Endpoint("GET", "/health", "health", "Whether the process is alive; needs no log-in", "Health"),
    Endpoint(
        "GET",
        "/ready",
        "ready",
        "Whether a model is loaded and work is taken; no log-in",
        "Health",
        errors=(503,),
    ),
    Endpoint("GET", "/metrics", "metrics", "Counters in Prometheus' text format", "text/plain"),
    Endpoint("POST", "/api/jobs", "create_job", "Put a job into the queue", "Job", 202, "JobRequest", (429, 503)),
    Endpoint("GET", "/api/jobs", "list_jobs", "The jobs of a session, or those of none", "Jobs"),
    Endpoint("GET", "/api/jobs/{id}", "get_job", "A job", "Job", errors=(404,)),
    Endpoint(
        "POST", "/api/jobs/{id}/cancel", "cancel_job", "End a job before its next step", "Job", 200, "Cancel", (404,)
    ),
    Endpoint("POST", "/api/jobs/{id}/skip", "skip_batch", "Leave out the present batch", "Job", errors=(404,)),
    Endpoint(
        "GET",
        "/api/jobs/{id}/events",
        "job_events",
        "Its events: queued, step, image, then done, failed or cancelled",
        "text/event-stream",
        errors=(404,),
    ),
    Endpoint(
        "GET", "/api/files/{name}", "get_file", "A finished image with its parameters", "image/png", errors=(404,)
    ),
    Endpoint("GET", "/api/models", "list_models", "The models", "Models"),
    Endpoint("POST", "/api/models", "switch_model", "Load a model; a job", "Job", 202, "Switch", (404, 429, 503)),
    Endpoint("GET", "/api/loras", "list_loras", "The LoRAs", "LoRAs"),
    Endpoint("GET", "/api/embeddings", "list_embeddings", "The words with learned vectors", "Embeddings"),
    Endpoint("GET", "/api/controls", "list_controls", "Networks for control images, and preprocessors", "Controls"),
    Endpoint("GET", "/api/references", "list_references", "The IP-Adapters", "References"),
    Endpoint(
        "GET", "/api/samplers", "list_samplers", "Samplers, schedules, upscalers of hires fix and presets", "Samplers"
    ),
    Endpoint("GET", "/api/server", "server", "Version, limits, and the length of the queue", "Server"),
    Endpoint("POST", "/api/parameters", "read_parameters", "The parameters in an image", "Parameters", 200, "Image"),
    Endpoint("GET", "/api/openapi.json", "openapi", "This description", "application/json"),
)


def describe() -> Schema:
    """The description of all routes."""
    paths: dict[str, Schema] = {}
    for each in ENDPOINTS:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    security = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "basic": {"type": "http", "scheme": "basic"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "sdxl serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": security},
        "security": [{}, *({name: []} for name in security)],
    }


def _operation(each: Endpoint) -> Schema:
    operation: Schema = {"operationId": each.name, "summary": each.summary}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _TEXT} for name in re.findall(r"{(\w+)}", each.path)
    ]
    if each.name == "list_jobs":
        parameters.append({"name": "session", "in": "query", "required": False, "schema": _TEXT})
    if parameters:
        operation["parameters"] = parameters
    if each.body is not None:
        content = {"application/json": {"schema": _ref(each.body)}}
        if each.body in _FORMS:
            content["multipart/form-data"] = {"schema": _FORMS[each.body]}
        operation["requestBody"] = {"required": each.body != "Cancel", "content": content}
    problem = {"description": "a problem", "content": {"application/json": {"schema": _ref("Problem")}}}
    answer = {"description": each.summary, "content": _content(each.answer)}
    operation["responses"] = {str(each.status): answer, "default": problem}
    for status in each.errors:
        operation["responses"][str(status)] = answer if each.name == "ready" else problem
    if each.path in OPEN:
        operation["security"] = []
    return operation


def _content(answer: str) -> Schema:
    return {answer: {}} if "/" in answer else {"application/json": {"schema": _ref(answer)}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Mapping[str, Any], **optional: Any) -> Schema:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def _or_null(kind: str) -> Schema:
    return {"type": [kind, "null"]}


_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_FLAG: Schema = {"type": "boolean"}
_ANY_OBJECT: Schema = {"type": "object"}
_BASE64: Schema = {"type": "string", "description": "an image in base64, bare or as a data URL"}
_FILES = {"oneOf": [{"type": "string", "format": "binary"}, _list({"type": "string", "format": "binary"})]}
_FORMS: Mapping[str, Schema] = {
    "JobRequest": _object(
        {"request": {"type": "string", "description": "JSON"}},
        **dict.fromkeys(("image", "mask", "control", "reference"), _FILES),
    ),
    "Image": _object({"image": {"type": "string", "format": "binary"}}),
}
_STATUS: Schema = {"enum": ["queued", "running", "done", "failed", "cancelled"]}
_FILE: Schema = {"name": _TEXT, "file": _TEXT}
_NAMED: Schema = _object(_FILE)
_TYPES: Mapping[type, Schema] = {str: _TEXT, int: _WHOLE, float: _NUMBER, dict: _ANY_OBJECT}


def _schemas() -> Schema:
    job = {
        "id": _TEXT,
        "status": _STATUS,
        "origin": _TEXT,
        "model": _TEXT,
        "place": _or_null("integer"),
        "stage": _or_null("string"),
        "batch": _WHOLE,
        "batches": _WHOLE,
        "step": _WHOLE,
        "steps": _WHOLE,
        "progress": {"type": "number", "minimum": 0, "maximum": 1},
        "seconds_left": _or_null("number"),
        "created": _NUMBER,
        "started": _or_null("number"),
        "ended": _or_null("number"),
        "request": _ANY_OBJECT,
        "images": _list(_ref("JobImage")),
        "warnings": _list(_TEXT),
        "error": {"oneOf": [_ref("Error"), {"type": "null"}]},
    }
    image = {"name": _TEXT, "url": _TEXT, "seed": _or_null("integer"), "width": _WHOLE, "height": _WHOLE}
    error = {"type": _TEXT, "message": _TEXT, "argument": _or_null("string")}
    sampler = {"name": _TEXT, "a1111": _or_null("string")}
    limits = dict.fromkeys(("queue", "max_pixels", "max_steps", "max_images", "max_body", "letters"), _WHOLE)
    server = {"version": _TEXT, "is_ready": _FLAG, "limits": _object(limits), "waiting": _WHOLE, "running": _WHOLE}
    model = {"name": _TEXT, "is_default": _FLAG, "is_loaded": _FLAG, "defaults": _or_null("object")}
    return {
        "Error": _object(error),
        "Problem": _object({"error": _ref("Error")}),
        "Health": _object({"status": _TEXT}),
        "Job": _object(job),
        "Jobs": _object({"jobs": _list(_ref("Job"))}),
        "JobImage": _object({**image, "request": _ANY_OBJECT}),
        "JobRequest": _job_request(),
        "Cancel": _object({}, keep_guess={**_FLAG, "description": "make an image of the present guess"}),
        "Switch": _object({"model": _TEXT}),
        "Models": _object({"models": _list(_object(model))}),
        "LoRAs": _object({"loras": _list(_NAMED)}),
        "Embeddings": _object({"embeddings": _list(_NAMED)}),
        "Controls": _object(
            {"controls": _list(_object({**_FILE, "types": _list(_TEXT)})), "preprocessors": _list(_TEXT)}
        ),
        "References": _object({"references": _list(_NAMED)}),
        "Samplers": _object(
            {
                "samplers": _list(_object({**sampler, "options": _ANY_OBJECT})),
                "schedules": _list(_object(sampler)),
                "upscalers": _list(_object(sampler)),
                "presets": _list(_TEXT),
            }
        ),
        "Server": _object(server),
        "Image": _object({"image": _BASE64}),
        "Parameters": _object(
            {
                **dict.fromkeys(("model", "request", "arguments"), _ANY_OBJECT),
                "sources": _list(_TEXT),
                "missing": _list(_TEXT),
            }
        ),
    }


def _job_request() -> Schema:
    """The fields of `Request` that clients can give, and what a job has beside them."""
    properties: Schema = {}
    for each in fields(Request):
        option = each.metadata["option"]
        if option.type in _TYPES:
            properties[each.name] = {"description": option.help, **_field(option.type, option.repeated, option.example)}
            if each.default not in (None, MISSING):
                properties[each.name]["default"] = each.default
    properties |= {name: {"oneOf": [_BASE64, _list(_BASE64)]} for name in SOURCES if name != "latents"}
    properties["loras"] = _list({"oneOf": [_TEXT, _object({"file": _TEXT}, weight=_NUMBER, text_weight=_NUMBER)]})
    numbers = {"scale": _NUMBER, "start": _NUMBER, "end": _NUMBER}
    control = _object({"net": _TEXT, "image": {"oneOf": [_BASE64, _list(_BASE64)]}}, **numbers, guess=_FLAG, type={})
    control["properties"]["preprocess"] = _TEXT
    properties["control"] = _list(control)
    several = {"oneOf": [_BASE64, _list({"oneOf": [_BASE64, _list(_BASE64)]})]}
    reference = _object({"adapter": _TEXT, "image": several}, **numbers, only={}, mask=_BASE64)
    properties["reference"] = _list(reference)
    properties["hires"] = _ANY_OBJECT
    own = {
        "batches": {**_WHOLE, "default": 1, "description": "calls one after the other, each with the next seeds"},
        "model": {**_TEXT, "description": "the name of a model (default: the one that is_default)"},
        "session": {**_TEXT, "description": "a secret of the client, by which it lists its jobs again"},
    }
    return _object({"prompt": properties.pop("prompt")}, **properties, **own)


def _field(kind: type, is_repeated: bool, example: str) -> Schema:
    """One value, or several where the flag takes several."""
    one = _TYPES[kind]
    if kind is dict or not (is_repeated or example):
        return one if kind is not str else {}
    return {"anyOf": [one, _list(one)]}
