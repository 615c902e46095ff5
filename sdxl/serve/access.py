"""Who may ask: this host's names, pages of this origin, and clients with the key or the password."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from .problems import RefusedError, refuse
from .settings import Settings, is_address, is_loopback

_ANY = ("0.0.0.0", "::", "")  # addresses that mean all of this machine's


def check_access(headers: Headers, settings: Settings) -> None:
    """Raise `RefusedError` for a foreign host name, a foreign page, or a client that is not logged in."""
    host = headers.get("host", "")
    if not is_own_host(host, settings):
        raise refuse(
            421, "the Host of this request is no name of this service; its operator can add it with --allow-host"
        )
    origin = headers.get("origin")
    if origin is not None and not is_own_origin(origin, host) and not is_allowed_origin(origin, settings):
        raise refuse(403, "a page of another origin sent this; the operator of this service can allow it with --cors")
    if not is_authorised(headers, settings):
        raise not_authorised()


def not_authorised() -> RefusedError:
    """The refusal of a client that has to log in."""
    return refuse(
        401,
        "this service needs a key or a password; send Authorization: Bearer KEY, X-API-Key, or Basic",
        WWW_Authenticate='Basic realm="sdxl", charset="UTF-8"',
    )


def is_own_host(host: str, settings: Settings) -> bool:
    """Whether a Host header names this service: a DNS name that an attacker points at this machine does not."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in settings.names or is_loopback(name):
        return bool(name)
    return settings.host in _ANY and is_address(name)


def is_own_origin(origin: str, host: str) -> bool:
    """Whether a page came from the host that it asks."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def is_allowed_origin(origin: str, settings: Settings) -> bool:
    """Whether the operator has allowed pages of this origin."""
    return origin in settings.cors or ("*" in settings.cors and origin != "null")


def is_authorised(headers: Headers, settings: Settings) -> bool:
    """Whether a request has the key (Bearer, X-API-Key, or the password of Basic) or the user and password, in constant
    time. Where none is needed, all have.
    """
    if not settings.is_protected:
        return True
    scheme, _, value = headers.get("authorization", "").partition(" ")
    login = _basic(value) if scheme.lower() == "basic" else ""
    keys = [headers.get("x-api-key", ""), value.strip() if scheme.lower() == "bearer" else "", login.partition(":")[2]]
    matches = [_equal(login, settings.auth), *(_equal(key, settings.api_key) for key in keys)]
    return any(matches)


def _basic(value: str) -> str:
    try:
        return b64decode(value.strip(), validate=True).decode()
    except ValueError:
        return ""


def _equal(given: str, secret: str | None) -> bool:
    """Whether they are equal; the time says neither where they differ nor how long the secret is."""
    digests = [hashlib.sha256(each.encode("utf-8", "surrogateescape")).digest() for each in (given, secret or "")]
    return hmac.compare_digest(*digests) and secret is not None
