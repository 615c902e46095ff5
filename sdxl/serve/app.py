"""The application: all skins and the page behind the guard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.routing import Router
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
    if PAGE.is_dir():
        routes += page_routes(PAGE)
    bodies = [(skin.prefix, skin.error_body) for skin in skins]
    router = Router(routes, redirect_slashes=False)
    return Guard(router, service.settings, service.catalog, service.engine.metrics, bodies)
