"""What a prompt has of the grammars of other programs, to say which `prompt_syntax` reads it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .grammars import NUMBER

_INNER = r"[^\[\]()]*"


@dataclass(frozen=True)
class Construct:
    """A kind of syntax: a pattern, and the syntaxes of `Request.prompt_syntax` that read it. `negative`: also in
    negative prompts. One that is `common` in prose counts only twice, or beside another. A syntax that it is
    `left_out_by` takes it out of a prompt, with a warning of its own.
    """

    pattern: re.Pattern[str]
    readers: tuple[str, ...]
    negative: bool = True
    common: bool = False
    left_out_by: tuple[str, ...] = ()
    shouted: bool = False  # a word in capitals, which is prose in a text that has only capitals


_BOTH = ("a1111", "comfyui")
_CONSTRUCTS = (
    Construct(re.compile(r"\([^()]*:\s*[+-]?(?:\d?\.\d+|\d\.|(?<!\d:)\d)\s*\)"), _BOTH),  # not (9:30), (16:9)
    Construct(re.compile(r"(?<!\()\(\(+[^()]+\)\)"), _BOTH),
    Construct(
        re.compile(rf"\[{_INNER}(?:\([^()]*\)[^\[\]()]*)*:\s*{NUMBER}\s*\]|\[[^\[\]()|]*\|[^\[\]]*\]"), ("a1111",)
    ),
    Construct(re.compile(r"(?<!\[)\[\[+[^\[\]]+\]\]"), ("a1111",)),
    Construct(re.compile(r"(?<!\[)\[[^\[\]:|]+\](?!\])"), ("a1111",), common=True),
    Construct(re.compile(r"\bBREAK\b"), ("a1111",), shouted=True),
    Construct(re.compile(r"\bAND\b"), ("a1111",), negative=False, shouted=True),
    Construct(re.compile(r"<(?:lora|lyco):[^<>]+>"), ("a1111",), negative=False),
    Construct(re.compile(r"<hypernet:[^<>]+>"), (), left_out_by=("a1111",)),
    Construct(re.compile(r"(?<!\S)embedding:[^\s()]+"), ("comfyui",)),
    Construct(re.compile(r"\{[^{}|]*\|[^{}]*\}"), ()),
    Construct(re.compile(r"(?<!\w)__[\w/*-]{1,100}?__(?!\w)"), ()),
    # compel's; not C++, and not a dash behind a word
    Construct(re.compile(r"(?<![a-z])[a-z]{1,40}\+\+(?![\w+])|\([^()]+\)(?:[+-]+(?!\w)|\d?\.\d+)"), ()),
)


@dataclass(frozen=True)
class Found:
    """A construct of a text: its first occurrence, how many there are, and the syntaxes that read it."""

    example: str
    count: int
    readers: tuple[str, ...]


def find_constructs(text: str, syntax: str, negative: bool = False) -> list[Found]:
    """What a text, read in a syntax, has of the constructs that it does not read, one of each kind."""
    found = [(construct, _matches(construct, text)) for construct in _CONSTRUCTS]
    there = [(construct, matches) for construct, matches in found if matches]
    if all(construct.common and len(matches) < 2 for construct, matches in there):
        return []
    return [
        Found(matches[0], len(matches), construct.readers if construct.negative or not negative else ())
        for construct, matches in there
        if not _is_read(construct, syntax, negative)
    ]


def _is_read(construct: Construct, syntax: str, negative: bool) -> bool:
    """Whether a syntax does something with a construct in a prompt or a negative one."""
    if syntax in construct.left_out_by:
        return not negative
    return syntax in construct.readers and (construct.negative or not negative)


def _matches(construct: Construct, text: str) -> Sequence[str]:
    if construct.shouted and text == text.upper():
        return ()
    return [match[0] for match in construct.pattern.finditer(text)]
