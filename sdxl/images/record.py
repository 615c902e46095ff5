"""Image files that record how they were made."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ..errors import ArgumentError, OutputError, brief
from ..weights.path import expanded
from .a1111 import parameters_text
from .exif import pack_exif
from .output import image_format, resolve_output, write_file
from .parameters import Parameters
from .texts import OWN_CHUNK, Texts, find_texts
from .tools.comfyui import read_graph
from .tools.webui import read_infotext

_MOST_EXIF = 65533  # bytes, in a JPEG
_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True},
}


def encode_image(image: Image.Image, parameters: Mapping[str, Any], format: str) -> bytes:
    """A file of `format` PNG, JPEG (quality 95, 4:4:4) or WEBP (lossless) with its parameters. Raises `OutputError`,
    and `ArgumentError` for parameters that are none.

    A PNG has two text chunks: "parameters" is AUTOMATIC1111's text, "sdxl" our JSON. JPEG and WebP have EXIF: its
    UserComment is the text, its MakerNote the JSON.
    """
    name = format.upper()
    if name not in _OPTIONS:
        raise OutputError(f"format is {brief(format)}; expected {', '.join(_OPTIONS)}. Try PNG")
    data, metadata = io.BytesIO(), _metadata(image, parameters, name)
    try:
        image.save(data, format=name, **_OPTIONS[name], **metadata)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"an image of {image.width} x {image.height} and mode {image.mode} cannot be written as {name} ({error}); "
            "convert it to RGB, or try PNG"
        ) from error
    return data.getvalue()


def _metadata(image: Image.Image, parameters: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What PIL writes beside the pixels. A path in the parameters may not be valid Unicode."""
    missing = [each for each in ("version", "model", "request") if each not in parameters]
    if missing:
        raise ArgumentError(
            f"parameters have no {missing[0]}; expected those of an image, such as result.parameters[0]. Try "
            "image.save for a file without them"
        )
    text = parameters_text(parameters, image.size).encode(errors="replace").decode()
    record = json.dumps(parameters, ensure_ascii=False).encode(errors="backslashreplace").decode()  # as JSON escapes
    if name == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("parameters", text)
        info.add_itxt(OWN_CHUNK, record)
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
    `read_parameters` read. A link's target is replaced. Raises `OutputError`, and `ArgumentError` for parameters
    that are none.
    """
    path = Path(path)
    target = resolve_output(path)
    write_file(encode_image(image, parameters, image_format(path)), target)


def save_png(image: Image.Image, path: str | Path, parameters: Mapping[str, Any]) -> None:
    """As `save_image`, but a PNG whatever the suffix."""
    write_file(encode_png(image, parameters), resolve_output(Path(path)))


def read_parameters(path: str | Path) -> Parameters:
    """What a file says of how its image was made: one of `save_image`, or of AUTOMATIC1111, Forge, Civitai or ComfyUI.
    An image (PNG, JPEG, WebP), or a text file with AUTOMATIC1111's parameters or ComfyUI's graph. Raises
    `ArgumentError`.
    """
    return parameters_in(find_texts(expanded(path)), path)


def parameters_in(texts: Texts, path: str | Path) -> Parameters:
    """What the texts of a file say of how its image was made. Raises `ArgumentError` with its path."""
    if texts.own is not None:
        return _own_record(path, texts.own)
    failures: list[str] = []
    unknown: Parameters | None = None
    for read, text in ((read_graph, texts.prompt), (read_graph, texts.workflow), (read_infotext, texts.parameters)):
        if text is None:
            continue
        try:
            found = read(text)
        except ValueError as error:
            failures.append(str(error))
            continue
        if found.request.get("prompt") or text is texts.parameters:
            return found
        unknown = unknown or found  # a text beside it may have the prompt that another node made
    if unknown is not None:
        return unknown
    if texts.tool is not None:
        raise ArgumentError(
            f"{path} was written by {texts.tool}, whose parameters are not read; give its prompt and settings as "
            "arguments"
        )
    if failures:
        raise ArgumentError(f"the parameters in {path} cannot be read ({', and '.join(failures)}); give another file")
    if texts.unread:
        raise ArgumentError(
            f"{path} has no parameters of a tool that is read, but the texts {brief(', '.join(texts.unread))}; give an "
            "image of sdxl, AUTOMATIC1111, Forge, Civitai or ComfyUI"
        )
    raise ArgumentError(f"{path} has no recorded parameters; give an image that sdxl or another tool wrote")


def _own_record(path: str | Path, text: str) -> Parameters:
    """The record that this package wrote."""
    try:
        data = json.loads(text)
        if not isinstance(data["request"], dict) or not isinstance(data["model"], dict):
            raise TypeError("request and model must be objects")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArgumentError(f"the parameters in {path} are damaged ({error}); give another image of sdxl") from error
    request = data["request"]
    if "sampler_options" not in request and request.get("sampler") != "ddim":
        request.pop("eta", None)  # 0.1.0 recorded 0 for all samplers, and had eta for ddim alone
    return Parameters(data)
