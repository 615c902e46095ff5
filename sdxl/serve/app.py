"""The application: all skins and the page behind the guard."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from . import api
from .guard import Guard
from .openai import routes as openai
from .sdapi import routes as sdapi
from .service import Service
from .skin import Skin
from .static import page_routes

SKINS: tuple[Callable[[Service], Skin], ...] = (
    api.skin,
    sdapi.skin,
    sdapi.internal,
    sdapi.extension,
    openai.skin,
)
PAGE = Path(__file__).parent / "page"


def make_app(service: Service) -> ASGIApp:
    """The ASGI application of a service."""
    skins = [make(service) for make in SKINS]
    routes = [route for skin in skins for route in skin.routes]
    if os.path.isdir(PAGE):
        routes += page_routes(PAGE)
    bodies = [(skin.prefix, skin.error_body) for skin in skins]
    router = Router(_by_address(routes), redirect_slashes=False)
    return Guard(router, service.settings, service.catalog, service.engine.metrics, bodies)


def _by_address(routes: Iterable[Route]) -> list[Route]:
    """One route for each address, with all its methods: a refusal of another method names them."""
    addresses: dict[str, list[Route]] = {}
    for route in routes:
        addresses.setdefault(route.path, []).append(route)
    return [same[0] if len(same) == 1 else _joined(same) for same in addresses.values()]


def _joined(routes: Sequence[Route]) -> Route:
    endpoints = {method: route.endpoint for route in routes for method in route.methods or ()}

    async def answer(request: Request) -> Response:
        response: Response = await endpoints[request.method](request)
        return response

    return Route(routes[0].path, answer, methods=list(endpoints))
