"""`--x` and `--y`: an argument of the image and the values that it takes in the columns or rows of a grid."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..adapters.lookup import HASHES
from ..adapters.lora import read_loras
from ..errors import ArgumentError, brief
from ..pipeline.aliases import advice
from ..pipeline.hires import read_hires
from ..pipeline.request import Request
from ..sampling.guiders import read_guider, record_guider
from .options import read_part

_TYPES = {"str": str, "int": int, "float": float}
_WORDS = {int: "whole numbers", float: "numbers"}
_SHORT = {"lora": "loras"}
_WITH_PARTS = {"hires": "hires.strength", "guider": "guider.scale", "loras": "lora.weight or lora.file"}
"""The arguments of which a part can be given, and examples."""


@dataclass(frozen=True)
class Axis:
    """`name` is a field of `Request`, and `part` one of its value's, as in `hires.strength`; `labels` and `values`
    belong to the columns or rows.
    """

    name: str
    part: str
    labels: tuple[str, ...]
    values: tuple[Any, ...]

    def put(self, arguments: Mapping[str, Any], number: int) -> dict[str, Any]:
        """The arguments of an image with the value of a column or row. Raises `ArgumentError`."""
        value = self.values[number]
        if self.part:
            value = _with_part(self.name, arguments.get(self.name), self.part, value)
        return {**arguments, self.name: value}


def read_axis(flag: str, text: str) -> Axis:
    """An axis from NAME=VALUE,VALUE,...; values with commas stand in quotes. Raises `ArgumentError`."""
    written, equals, rest = text.partition("=")
    name, _, part = written.strip().replace("-", "_").partition(".")
    name = _SHORT.get(name, name)
    cells = next(csv.reader([rest], skipinitialspace=True), [])
    if not equals or not cells or any("\n" in cell for cell in cells):
        raise ArgumentError(f"{flag} is {brief(text)}; expected NAME=VALUE,VALUE,... Try steps=10,20,30")
    kinds = {each.name: _TYPES.get(re.split(r"\W", str(each.type))[0]) for each in fields(Request)}
    able = [each for each, kind in kinds.items() if kind is not None and each != "num_images"]
    if part:
        if name not in _WITH_PARTS:
            raise ArgumentError(
                f"{flag} is {brief(text)}; of {', '.join(_WITH_PARTS)} alone a part can be given. Try hires.strength"
            )
        values = [read_part(cell) for cell in cells]
    elif name not in able:
        raise ArgumentError(
            f"{flag} is {brief(text)}, and {brief(name)} is no argument of one value; {_hint(name, able)}"
        )
    else:
        values = [_typed(flag, name, kinds[name], cell) for cell in cells]
    label = "" if name == "prompt" else f"{written.strip()} "
    return Axis(name, part, tuple(f"{label}{cell}" for cell in cells), tuple(values))


def _hint(name: str, able: list[str]) -> str:
    return f"its parts can be, as in {_WITH_PARTS[name]}" if name in _WITH_PARTS else advice(name, able)


def _typed(flag: str, name: str, kind: Any, text: str) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise ArgumentError(f"{flag} {name} has {brief(text)}; expected {_WORDS[kind]} with commas between") from error


def _with_part(name: str, value: Any, part: str, own: Any) -> Any:
    """The value of a field, as JSON has it, with another value of one part."""
    if name == "hires":
        return _replaced({} if value is None else read_hires(value).record(), part, own)
    if name == "guider":
        if value is None:
            raise ArgumentError(f"guider.{part} is given without a guider; give --guider too")
        return {**record_guider(read_guider(value)), part: own}
    loras = read_loras(value or ())
    if len(loras) != 1:
        raise ArgumentError(f"lora.{part} is given beside {len(loras)} LoRAs; expected one, give it with --lora")
    return [_replaced(loras[0].record(), part, own)]


def _replaced(record: dict[str, Any], part: str, own: Any) -> dict[str, Any]:
    """A record with another value of a part, and without what said the same otherwise, or of the earlier value."""
    gone = {"size": "scale", "scale": "size", **HASHES}.get(part)
    return {name: value for name, value in record.items() if name != gone} | {part: own}
