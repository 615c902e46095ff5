"""Image files that record how they were made."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ..errors import ArgumentError, OutputError, brief
from .a1111 import parameters_text
from .exif import pack_exif, unpack_note
from .image import MOST_PIXELS, open_header
from .output import image_format, resolve_output, write_file

_CHUNK = "sdxl"  # the PNG text chunk with our JSON, beside AUTOMATIC1111's "parameters"
_MOST_EXIF = 65533  # bytes of a JPEG segment
_LONGEST = 2**23  # characters of a record
_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},  # 4:4:4
    "WebP": {"lossless": True},
}


def encode_image(image: Image.Image, parameters: Mapping[str, Any], format: str) -> bytes:
    """A file of `format` PNG, JPEG (quality 95, 4:4:4) or WebP (lossless), with its parameters. Raises `OutputError`.

    PNG has two text chunks: AUTOMATIC1111's text is "parameters", our JSON "sdxl". JPEG and WebP have EXIF: the text is
    its UserComment, the JSON its MakerNote.
    """
    options = {name.lower(): (name, value) for name, value in _OPTIONS.items()}
    if format.lower() not in options:
        raise OutputError(f"format is {brief(format)}; expected {', '.join(_OPTIONS)}. Try PNG")
    name, arguments = options[format.lower()]
    text = parameters_text(parameters, image.size).encode(errors="replace").decode()  # a path may not be valid Unicode
    record = json.dumps(parameters, ensure_ascii=False).encode(errors="replace").decode()
    if name == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("parameters", text)
        info.add_itxt(_CHUNK, record)
        arguments = {"pnginfo": info}
    else:
        exif = pack_exif(text, record)
        if name == "JPEG" and len(exif) > _MOST_EXIF:
            raise OutputError(
                f"the parameters are {len(exif)} bytes long; a JPEG holds at most {_MOST_EXIF}. "
                "Try PNG or a shorter prompt"
            )
        arguments = {**arguments, "exif": exif}
    data = io.BytesIO()
    try:
        image.save(data, format=name, **arguments)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"an image of mode {image.mode}, {image.width} x {image.height}, cannot be written as {name} ({error}); "
            "try RGB and PNG"
        ) from error
    return data.getvalue()


def encode_png(image: Image.Image, parameters: Mapping[str, Any]) -> bytes:
    """A PNG with its parameters."""
    return encode_image(image, parameters, "PNG")


def save_image(image: Image.Image, path: str | Path, parameters: Mapping[str, Any]) -> None:
    """Write a PNG, JPEG or WebP file, as its suffix says, with its parameters, which `generate --from` and
    `read_parameters` read. A link's target is replaced. Raises `OutputError`.
    """
    target = resolve_output(Path(path))
    write_file(encode_image(image, parameters, image_format(Path(path))), target)


def save_png(image: Image.Image, path: str | Path, parameters: Mapping[str, Any]) -> None:
    """As `save_image`, a PNG whatever the suffix."""
    target = resolve_output(Path(path))
    write_file(encode_png(image, parameters), target)


def read_parameters(path: str | Path) -> dict[str, Any]:
    """The parameters that were recorded in an image of `save_image`. Raises `ArgumentError`."""
    try:
        text = _record(Path(path))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ArgumentError(f"{path} cannot be read as an image ({error}); give an image that sdxl wrote") from error
    if text is None:
        raise ArgumentError(f"{path} has no recorded parameters; give an image that sdxl wrote")
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"{len(text)} characters, expected at most {_LONGEST}")
        data = json.loads(text)
        if not isinstance(data["request"], dict) or not isinstance(data["model"], dict):
            raise TypeError("request and model must be objects")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArgumentError(f"the parameters in {path} are damaged ({error}); give another image of sdxl") from error
    return dict(data)


def _record(path: Path) -> str | None:
    """The JSON in an image, by its header alone where that has it."""
    with open_header(path, formats=tuple(_OPTIONS)) as image:
        if not isinstance(image, PngImagePlugin.PngImageFile):
            return unpack_note(image.info.get("exif", b""))
        text = image.info.get(_CHUNK)
        if text is None and image.width * image.height <= MOST_PIXELS:
            text = image.text.get(_CHUNK)  # reads the pixels too, for what stands behind them
        return text
