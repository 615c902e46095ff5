"""How a service runs: where it listens, who may ask, and how much at most. Imports no torch."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ..errors import ArgumentError, brief

MIB = 2**20
_KEY = re.compile(r"[!-~]([ -~]*[!-~])?")
_NAME = re.compile(r"[\w-]+(\.[\w-]+)*", re.ASCII)
_LEAST = ("queue", "keep", "max_pixels", "max_steps", "max_images", "max_body")


@dataclass(frozen=True)
class Settings:
    """One worker for each of `devices` (None: the fastest there is). `queue` jobs wait, the images of the last `keep`
    jobs stay. At most `batch_size` jobs share a call; None: as many as pays. `max_pixels` and `max_steps` are those of
    an image, `max_images` those of a job, `max_body` the bytes of a request. `allow_hosts` are more names of this host,
    `cors` the origins of foreign pages that may ask.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    devices: tuple[str | None, ...] = (None,)
    queue: int = 32
    keep: int = 100
    batch_size: int | None = 1
    max_pixels: int = 2048 * 2048
    max_steps: int = 150
    max_images: int = 16
    max_body: int = 32 * MIB
    api_key: str | None = field(default=None, repr=False)
    auth: str | None = field(default=None, repr=False)  # USER:PASSWORD
    allow_hosts: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    insecure: bool = False
    image_pixels: int = 4096 * 4096  # of an image that a client sends
    letters: int = 32_000  # of a text
    head_seconds: float = 20.0  # in which the header of a request must arrive
    body_seconds: float = 60.0  # in which its body must
    read_seconds: float = 30.0  # in which a client must read what waits for it, up to 128 KiB
    grace: float = 30.0  # seconds that a running image has when the service ends

    def __post_init__(self) -> None:
        for name in _LEAST:
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not 0 <= self.port < 2**16:
            raise ArgumentError(f"port is {self.port}; expected 0 to 65535")
        if self.auth is not None and not all(self.auth.partition(":")):
            raise ArgumentError("auth has no user and password; expected USER:PASSWORD")
        if self.api_key is not None and not _KEY.fullmatch(self.api_key):
            raise ArgumentError(
                "api_key is empty, or has what a header cannot hold; expected printable ASCII, and no space at an end"
            )
        for name in self.allow_hosts:
            if not is_host_name(name):
                raise ArgumentError(f"allow_host is {brief(name)}; expected a name such as images.example.com")
        for origin in self.cors:
            parts = urlsplit(origin)
            if origin != "*" and (
                parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise ArgumentError(f"cors is {brief(origin)}; expected an origin such as https://example.com, or *")
        if not (self.is_local or self.is_protected or self.insecure):
            raise ArgumentError(
                f"host is {self.host}, which others can reach, and nobody has to log in; give --api-key or --auth, or "
                "--insecure to let everybody in"
            )

    @property
    def names(self) -> set[str]:
        """The names and addresses of this host that were given, as URLs have them."""
        return {each.lower().strip("[]") for each in (self.host, *self.allow_hosts)}

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can connect."""
        return is_loopback(self.host)

    @property
    def is_protected(self) -> bool:
        """Whether requests need a key or a password."""
        return self.api_key is not None or self.auth is not None


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_host_name(name: str) -> bool:
    """Whether it is the name or the address of a host, without a port."""
    return bool(_NAME.fullmatch(name)) or is_address(name.strip("[]"))


def is_address(name: str) -> bool:
    """Whether it is an address of the Internet protocol."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
