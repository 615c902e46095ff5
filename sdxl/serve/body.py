"""The bodies of requests: JSON, or a form with files."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from .problems import refuse

_MOST_VALUES = 200_000  # brackets, braces and commas, which bound the memory of what JSON becomes
MOST_PARTS = 64  # of a form
_DEEPEST = 100  # lists and objects within each other: code that walks through values calls itself for each


async def read_json(request: Request, is_optional: bool = False, is_typed: bool = True) -> dict[str, Any]:
    """An object; an empty one for an empty body that is optional. A body that says nothing of its type is taken unless
    it `is_typed`. Raises `RefusedError`.
    """
    data = await request.body()
    if not data.strip() and is_optional:
        return {}
    if _kind(request) not in ("application/json", *([] if is_typed else [""])):
        raise refuse(415, "the body is no application/json; set the Content-Type, and send an object of JSON")
    return parse_json(data)


def parse_json(data: bytes | str) -> dict[str, Any]:
    """An object of JSON without NaN and infinities. Raises `RefusedError`."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if sum(map(raw.count, (b"[", b"{", b","))) > _MOST_VALUES:
        raise refuse(400, f"the JSON has more than {_MOST_VALUES} values; send fewer")
    try:
        value = json.loads(raw, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise refuse(400, "the body is no valid JSON; expected an object, with finite numbers") from error
    if not isinstance(value, dict):
        raise refuse(400, 'the body is no object of JSON; expected one such as {"prompt": "a red circle"}')
    if not _is_flat(value):
        raise refuse(400, f"the JSON has more than {_DEEPEST} lists or objects within each other; send fewer")
    return value


def _is_flat(value: Any) -> bool:
    """Whether lists and objects lie at most `_DEEPEST` within each other."""
    level = [value]
    for _ in range(_DEEPEST):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list))]
        level = [each for values in inner for each in values]
    return not any(isinstance(each, (dict, list)) for each in level)


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


@dataclass(frozen=True)
class Form:
    """The texts and the files of a form, each name with all its values in their order."""

    texts: dict[str, list[str]]
    files: dict[str, list[bytes]]

    def text(self, name: str) -> str | None:
        """The last text of a name."""
        return self.texts[name][-1] if name in self.texts else None


def is_form(request: Request) -> bool:
    """Whether the body is a multipart form."""
    return _kind(request) == "multipart/form-data"


async def read_form(request: Request, most_bytes: int) -> Form:
    """A multipart form, whose files stay in memory: a disk may be full, or not writable. Raises `RefusedError`."""
    texts: dict[str, list[str]] = {}
    files: dict[str, list[bytes]] = {}
    try:
        async with aclosing(request.stream()) as stream:
            parser = MultiPartParser(
                request.headers, stream, max_files=MOST_PARTS, max_fields=MOST_PARTS, max_part_size=most_bytes
            )
            parser.spool_max_size = most_bytes
            form = await parser.parse()
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.setdefault(name, []).append(await value.read())
            else:
                texts.setdefault(name, []).append(value)
        await form.close()
    except (MultiPartException, ValueError, KeyError) as error:
        raise refuse(400, "the body is no valid multipart form; send it as a browser or curl -F does") from error
    return Form(texts, files)


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
