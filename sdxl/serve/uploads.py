"""Images that clients send: checked by their headers before they are decoded, and kept as they came."""

from __future__ import annotations

import io
import re
from base64 import b64decode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ArgumentError, brief
from .refusals import TooLargeError

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("PNG", "JPEG", "WEBP")
_DATA_URL = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w.+=-]+)*;base64,", re.IGNORECASE)
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, repr=False)
class Upload:
    """An image file of a client that can be decoded, to so many pixels if that is known."""

    data: bytes
    pixels: int = 0

    def open(self) -> Image:
        """The image, whose pixels are not decoded yet."""
        from PIL import Image

        return Image.open(io.BytesIO(self.data), formats=_FORMATS)

    def __repr__(self) -> str:
        return f"Upload({len(self.data)} bytes)"


def read_upload(data: bytes, name: str, most_pixels: int) -> Upload:
    """A file that was sent as the argument `name`. It is decoded once, so it takes time. Raises `ArgumentError` and
    `TooLargeError`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Upload(data).open() as image:
            if image.width * image.height > most_pixels:
                raise TooLargeError(
                    f"{name} is {image.width} x {image.height}; expected at most {most_pixels} pixels. Make it smaller",
                    name,
                )
            image.load()
            return Upload(data, image.width * image.height)
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"{name} has too many pixels; expected at most {most_pixels}. Make it smaller", name) from (
            error
        )
    except UnidentifiedImageError as error:
        raise ArgumentError(f"{name} is not an image in a known format; send PNG, JPEG or WebP") from error
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, OverflowError) as error:
        raise ArgumentError(f"{name} cannot be decoded; it is damaged, save it again") from error


def from_base64(value: object, name: str) -> bytes:
    """The bytes of an image in JSON: base64, bare or as a data URL. Raises `ArgumentError`."""
    if not isinstance(value, str):
        raise ArgumentError(f"{name} is {brief(value)}; expected an image in base64")
    if value[:8].lower().startswith(("http:", "https:", "file:", "ftp:")):
        raise ArgumentError(f"{name} is an address, and this service opens none; send the image itself in base64")
    prefix = _DATA_URL.match(value[:200])
    try:
        return b64decode(_SPACES.sub("", value[prefix.end() :] if prefix else value), validate=True)
    except ValueError as error:
        raise ArgumentError(f"{name} is no valid base64; send an image file in base64, bare or as a data URL") from (
            error
        )


def decoded(value: object, name: str) -> list[bytes]:
    """An image in base64, or a list of these; none of null. Raises `ArgumentError`."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [from_base64(each, name) for each in values]
