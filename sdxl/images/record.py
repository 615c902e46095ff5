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
_MOST_EXIF = 65533  # bytes, in a JPEG
_LONGEST = 2**23  # characters of JSON that are read
_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True},
}


def encode_image(image: Image.Image, parameters: Mapping[str, Any], format: str) -> bytes:
    """A file of `format` PNG, JPEG (quality 95, 4:4:4) or WEBP (lossless) with its parameters. Raises `OutputError`.

    A PNG has two text chunks: "parameters" is AUTOMATIC1111's text, "sdxl" our JSON. JPEG and WebP have EXIF: its
    UserComment is the text, its MakerNote the JSON.
    """
    name = format.upper()
    if name not in _OPTIONS:
        raise OutputError(f"format is {brief(format)}; expected {', '.join(_OPTIONS)}. Try PNG")
    data = io.BytesIO()
    try:
        image.save(data, format=name, **_OPTIONS[name], **_metadata(image, parameters, name))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"an image of {image.width} x {image.height} and mode {image.mode} cannot be written as {name} ({error}); "
            "convert it to RGB, or try PNG"
        ) from error
    return data.getvalue()


def _metadata(image: Image.Image, parameters: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What PIL writes beside the pixels. A path in the parameters may not be valid Unicode."""
    text = parameters_text(parameters, image.size).encode(errors="replace").decode()
    record = json.dumps(parameters, ensure_ascii=False).encode(errors="backslashreplace").decode()  # as JSON escapes
    if name == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("parameters", text)
        info.add_itxt(_CHUNK, record)
        return {"pnginfo": info}
    exif = pack_exif(text, record)
    if name == "JPEG" and len(exif) > _MOST_EXIF:
        raise OutputError(
            f"the parameters are {len(exif)} bytes of EXIF; expected at most {_MOST_EXIF} in a JPEG. "
            "Try PNG, or a shorter prompt"
        )
    return {"exif": exif}


def encode_png(image: Image.Image, parameters: Mapping[str, Any]) -> bytes:
    """A PNG with its parameters."""
    return encode_image(image, parameters, "PNG")


def save_image(image: Image.Image, path: str | Path, parameters: Mapping[str, Any]) -> None:
    """Write a PNG, JPEG or WebP file, as its suffix says, with its parameters, which `generate --from` and
    `read_parameters` read. A link's target is replaced. Raises `OutputError`.
    """
    path = Path(path)
    target = resolve_output(path)
    write_file(encode_image(image, parameters, image_format(path)), target)


def save_png(image: Image.Image, path: str | Path, parameters: Mapping[str, Any]) -> None:
    """As `save_image`, but a PNG whatever the suffix."""
    write_file(encode_png(image, parameters), resolve_output(Path(path)))


def read_parameters(path: str | Path) -> dict[str, Any]:
    """The parameters that were recorded in an image of `save_image`. Raises `ArgumentError`."""
    try:
        text = _record(Path(path))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or brief(str(error))  # PIL repeats parts of the file
        raise ArgumentError(f"{path} cannot be read as an image ({reason}); give an image that sdxl wrote") from error
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
    request = data["request"]
    if "sampler_options" not in request and request.get("sampler") != "ddim":
        request.pop("eta", None)  # 0.1.0 recorded 0 for all samplers, and had eta for ddim alone
    return dict(data)


def _record(path: Path) -> str | None:
    """The JSON in an image, by its header alone where that has it."""
    with open_header(path, formats=tuple(_OPTIONS)) as image:
        if not isinstance(image, PngImagePlugin.PngImageFile):
            return unpack_note(image.info.get("exif", b""))
        text = image.info.get(_CHUNK)
        if text is None and image.width * image.height <= MOST_PIXELS and not image.is_animated:
            text = image.text.get(_CHUNK)  # behind the pixels, which are read for it
        return text
