"""The grammar of AUTOMATIC1111's parameter text: a prompt, a negative prompt, and a line of `name: value` fields.

Values with commas are JSON strings. Civitai also writes JSON objects and lists as they are. A text that was copied by
hand may have lost its line breaks, or have got more of them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_NEGATIVE = "Negative prompt:"
_LABEL = re.compile(r"\s*parameters\s*:\s*", re.IGNORECASE)  # the name of the PNG's text, in front of it
_BEGINNING = re.compile(rf"(?:{_NEGATIVE})?\s*Steps:")
_STEPS = re.compile(r"[\s.]Steps:\s*\d+\s*,\s*\w")  # exiftool prints a line break as a dot
_OTHER_FIELDS = re.compile(r"\b(?:Sampler|CFG scale|Seed|Size):")
_NAME = re.compile(r"\s*(\w[\w \-/+.]{0,99}?):\s*")
_LEAST, _LEAST_OF_STEPS = 3, 2  # fields of a line of them, as AUTOMATIC1111 counts; of one that begins with the steps
_LAST, _MOST_FIELDS = 10, 2000  # lines from the end, and fields in one
_LONGEST = 2**19  # characters of a text; those of Civitai with many resources have 2^14
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Infotext:
    """The parts of a text. Values of `fields` are texts, or what the JSON of an object or a list says; `rest` is what
    stands behind the line of fields.
    """

    prompt: str
    negative_prompt: str
    fields: dict[str, Any]
    rest: str = ""


def split_infotext(text: str) -> Infotext:
    """The parts of a text. Raises `ValueError` if it has no line of fields, or is longer than any."""
    if len(text) > _LONGEST:
        raise ValueError(f"it has {len(text)} characters; expected at most {_LONGEST}")
    lines = _lines(text)
    number, fields = _find_fields(lines)
    prompts: list[list[str]] = [[], []]
    part = 0
    for line in map(str.strip, lines[:number]):
        if part == 0 and line.startswith(_NEGATIVE):
            part, line = 1, line.removeprefix(_NEGATIVE).strip()
        prompts[part].append(line)
    prompt, negative = ("\n".join(each).strip() for each in prompts)
    return Infotext(prompt, negative, fields, "\n".join(lines[number + 1 :]).strip())


def _lines(text: str) -> list[str]:
    """The lines of a text, with the breaks that it has where a tool writes it."""
    text = text.replace("\r\n", "\n").strip()
    if (label := _LABEL.match(text)) is not None:
        text = text[label.end() :]
    lines = text.split("\n")
    if not any(map(_begins_with_steps, lines)):
        lines = [part for line in lines for part in _broken(line)]
    joined: list[list[str]] = []
    for line in lines:
        if joined and _begins_with_steps(joined[-1][0]) and _goes_on(joined[-1], line):
            joined[-1][-1] = joined[-1][-1].removesuffix(",") + ","
            joined[-1].append(line.strip().removeprefix(","))
        else:
            joined.append([line.rstrip()])
    return [" ".join(parts) for parts in joined]


def _goes_on(parts: list[str], line: str) -> bool:
    """Whether a line has more fields of the line before, which has these parts: no tool ends its fields with a comma,
    or begins with one, and none states a field twice.
    """
    if parts[-1].endswith(",") or line.lstrip().startswith(","):
        return True
    own = _OTHER_FIELDS.findall(line)
    return len(own) > 1 and not _begins_with_steps(line) and not {*own} & {*_OTHER_FIELDS.findall(" ".join(parts))}


def _begins_with_steps(line: str) -> bool:
    return _BEGINNING.match(line) is not None


def _broken(line: str) -> list[str]:
    """A line in which fields stand behind the prompts, as a line of each; itself if there are none."""
    match = _STEPS.search(line)
    if match is None or _OTHER_FIELDS.search(line, 0, match.start()):
        return [line]
    prompt, negative, rest = line[: match.start()].partition(_NEGATIVE)
    return [*filter(None, [prompt.strip(), f"{negative}{rest}"]), line[match.start() + 1 :].strip()]


def _find_fields(lines: list[str]) -> tuple[int, dict[str, Any]]:
    """The number of the line of fields, and these: the last one that begins with the steps, else the last of several
    fields. Civitai writes it behind an empty negative prompt in the same line.
    """
    of_steps = [n for n, line in enumerate(lines) if _begins_with_steps(line)]
    last = range(len(lines) - 1, max(-1, len(lines) - _LAST), -1)
    for least, numbers in ((_LEAST_OF_STEPS, of_steps[::-1]), (_LEAST, last)):
        for n in numbers:
            fields = read_fields(lines[n].removeprefix(_NEGATIVE))
            if len(fields) >= least:
                return n, fields
    if lines[0].startswith("{"):
        raise ValueError("it is JSON of a tool that is not read")
    raise ValueError("it has no line such as 'Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1'")


def read_fields(line: str) -> dict[str, Any]:
    """The fields of a line. What is no field is passed over."""
    fields: dict[str, Any] = {}
    at = 0
    while at < len(line) and len(fields) < _MOST_FIELDS:
        match = _NAME.match(line, at)
        if match is None:
            at = _behind_comma(line, at)
            continue
        value, at = _value(line, match.end())
        fields[match[1].strip()] = value
    return fields


def _value(line: str, at: int) -> tuple[Any, int]:
    """The value at a position of a line, and where the next field begins."""
    if line[at : at + 1] in ('"', "{", "["):
        try:
            value, end = _DECODER.raw_decode(line, at)
        except (ValueError, RecursionError):
            pass  # a text that begins with such a letter
        else:
            if not line[end:].strip() or line[end:].lstrip()[0] == ",":
                return value, _behind_comma(line, end)
    end = _behind_comma(line, at)
    return line[at:end].rstrip().removesuffix(",").strip(), end


def _behind_comma(line: str, at: int) -> int:
    comma = line.find(",", at)
    return len(line) if comma < 0 else comma + 1


def pairs(value: Any) -> dict[str, str]:
    """The hashes by name of `name: hash, name: hash`, or of an object."""
    if isinstance(value, dict):
        return {str(name): str(hash) for name, hash in value.items() if isinstance(hash, (str, int))}
    if not isinstance(value, str):
        return {}
    found = (part.rpartition(":") for part in value.split(","))
    return {name.strip(): hash.strip() for name, colon, hash in found if colon}
