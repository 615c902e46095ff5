"""The texts in which a file says how its image was made: chunks of a PNG, EXIF of JPEG and WebP, or the file itself."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ..errors import ArgumentError, brief, unread_advice
from .exif import unpack_comment, unpack_note, unpack_texts
from .image import MOST_PIXELS, open_header
from .unread import unread_json, unread_tool

OWN_CHUNK = "sdxl"
"""The PNG text chunk with our JSON, beside AUTOMATIC1111's `parameters`."""
_FORMATS = ("PNG", "JPEG", "WEBP")
_LONGEST = 2**23  # characters of a text that are read


@dataclass(frozen=True)
class Texts:
    """The texts of a file: our `own` JSON, AUTOMATIC1111's `parameters`, and ComfyUI's two graphs, the `prompt` that
    was executed and the `workflow` on the screen. Of others, such as those of other tools, the names are `unread`, and
    `tool` is the one that has written them, if it is known.
    """

    own: str | None = None
    parameters: str | None = None
    prompt: str | None = None
    workflow: str | None = None
    unread: tuple[str, ...] = ()
    tool: str | None = None

    @property
    def are_none(self) -> bool:
        """Whether there is no text that is read."""
        return (self.own, self.parameters, self.prompt, self.workflow) == (None,) * 4


def find_texts(file: Path | bytes) -> Texts:
    """The texts of a file, or of its bytes. Raises `ArgumentError` if it cannot be read, or if one of them is too
    long.
    """
    name = "the file" if isinstance(file, bytes) else file
    try:
        texts = _of_file(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or brief(str(error))  # PIL repeats parts of the file
        advice = unread_advice(error, "give an image that sdxl or another tool wrote")
        raise ArgumentError(f"{name} cannot be read as an image ({reason}); {advice}") from error
    for text in (texts.own, texts.parameters, texts.prompt, texts.workflow):
        if text is not None and len(text) > _LONGEST:
            raise ArgumentError(
                f"the parameters in {name} are damaged ({len(text)} characters, expected at most {_LONGEST}); give "
                "another image"
            )
    return texts


def _of_file(file: Path | bytes) -> Texts:
    try:
        image = open_header(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_FORMATS)
    except UnidentifiedImageError:
        if (text := _plain(file)) is not None:
            return text
        raise
    with image:
        return _of_png(image) if isinstance(image, PngImagePlugin.PngImageFile) else _of_exif(image)


def _of_png(image: PngImagePlugin.PngImageFile) -> Texts:
    """By the header alone where that has a text; else all of the file is read, since texts may stand at the end."""
    texts = _of_chunks(image.info)
    if texts.are_none and image.width * image.height <= MOST_PIXELS and not image.is_animated:
        texts = _of_chunks(image.text)
    exif = _of_exif(image) if texts.are_none else texts
    return texts if exif.are_none else exif


def _of_chunks(chunks: Mapping[Any, Any]) -> Texts:
    names = (OWN_CHUNK, "parameters", "prompt", "workflow")
    unread = tuple(str(name) for name, text in chunks.items() if name not in names and isinstance(text, str))
    own, parameters, prompt, workflow = (text if isinstance(text := chunks.get(name), str) else None for name in names)
    tool = unread_tool(chunks)
    for text in (parameters, chunks.get("Comment"), chunks.get("Description")):
        if tool is None and isinstance(text, str) and text.lstrip().startswith("{"):
            tool = unread_json(text)
    return Texts(own, parameters, prompt, workflow, unread, tool)


def _of_exif(image: Image.Image) -> Texts:
    exif = image.info.get("exif", b"")
    own = unpack_note(exif)
    if own is not None:
        return Texts(own)
    graphs = {
        name: text.removeprefix(f"{name}:")
        for name in ("prompt", "workflow")
        for text in unpack_texts(exif)
        if text.startswith(f"{name}:")
    }
    comment = unpack_comment(exif)
    if comment is not None and comment.lstrip().startswith("{"):
        return _of_json(comment)
    return Texts(None, comment or None, graphs.get("prompt"), graphs.get("workflow"))


def _plain(file: Path | bytes) -> Texts | None:
    """A text file: a graph in JSON, or AUTOMATIC1111's text. None for other files."""
    with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as stream:
        data = stream.read(_LONGEST + 1)
    if b"\0" in data or len(data) > _LONGEST:
        return None
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None
    return _of_json(text) if text.startswith("{") else Texts(parameters=text or None)


def _of_json(text: str) -> Texts:
    return Texts(prompt=text, tool=unread_json(text))
