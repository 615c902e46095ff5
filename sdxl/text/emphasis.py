"""Weighted prompts: the grammars of AUTOMATIC1111 and ComfyUI, from a text to its spans with their weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .grammars import NUMBER

STEP = 1.1  # of a bracket without a number
DEEPEST = 50  # brackets within brackets of one kind; more are text


@dataclass(frozen=True)
class Span:
    """A part of a prompt whose tokens have one weight. `breaks`: a new chunk begins after it (BREAK)."""

    text: str
    weight: float = 1.0
    breaks: bool = False


def plain_spans(text: str) -> list[Span]:
    """The whole text, every character of it."""
    return [Span(text)]


# ---- AUTOMATIC1111

_TOKEN = re.compile(
    rf"\\(?P<escaped>[()\[\]\\])|(?P<open>[(\[])|(?P<weight>:\s*(?P<number>{NUMBER})\s*\))"
    r"|(?P<close>[)\]])|\\|(?P<text>[^\\()\[\]:]+|:)"
)
_BREAK = re.compile(r"(?:(?<!\s)\s+)?\bBREAK\b\s*")  # the blanks from their first one on: else n of them take n^2 steps


def a1111_spans(text: str) -> list[Span]:
    """AUTOMATIC1111's grammar: (more), [less], (with a number:1.3), which multiply; `\\(` for a bracket; BREAK.

    An open bracket reaches to the end of the text, and one without its partner is text. Neighbours of equal weight are
    one span, so that they are tokenized as one text. BREAK within brackets breaks too.
    """
    pieces: list[_Piece] = []
    open_: dict[str, list[int]] = {"(": [], "[": []}
    for match in _TOKEN.finditer(text):
        kind, value = match.lastgroup, match[0]
        if match["open"] and len(open_[value]) < DEEPEST:
            open_[value].append(len(pieces))
        elif match["weight"] and open_["("]:
            _scale(pieces, open_["("].pop(), float(match["number"]))
        elif match["close"] and open_[_PARTNER[value]]:
            _scale(pieces, open_[_PARTNER[value]].pop(), STEP if value == ")" else 1 / STEP)
        elif match["escaped"]:
            pieces.append(_Piece(match["escaped"]))
        elif kind is not None:  # a single backslash means nothing
            pieces.extend(_broken(value))
    for bracket, starts in open_.items():
        for start in starts:
            _scale(pieces, start, STEP if bracket == "(" else 1 / STEP)
    return list(_merged(pieces)) or [Span("")]


_PARTNER = {")": "(", "]": "["}


@dataclass
class _Piece:
    """A text, or a break, on the way to a span."""

    text: str
    weight: float = 1.0
    is_break: bool = False


def _broken(text: str) -> Iterator[_Piece]:
    """A text at its BREAKs."""
    for n, part in enumerate(_BREAK.split(text)):
        if n:
            yield _Piece("", is_break=True)
        if part:
            yield _Piece(part)


def _scale(pieces: list[_Piece], start: int, factor: float) -> None:
    for piece in pieces[start:]:
        piece.weight *= factor


def _merged(pieces: list[_Piece]) -> Iterator[Span]:
    """Neighbours of equal weight as one span; a break belongs to the span before it."""
    text, weight = "", 1.0
    for piece in pieces:
        if piece.is_break:
            yield Span(text, weight, breaks=True)
            text, weight = "", 1.0
        elif not text or piece.weight == weight:
            text, weight = text + piece.text, piece.weight
        else:
            yield Span(text, weight)
            text, weight = piece.text, piece.weight
    if text:
        yield Span(text, weight)


# ---- ComfyUI


def comfyui_spans(text: str) -> list[Span]:
    """ComfyUI's grammar: (more) multiplies, (with a number:1.3) sets the weight, whatever is around it; `\\(` for a
    bracket. Where a bracket is not closed, what follows is text.
    """
    hidden = text.replace("\\)", "\0").replace("\\(", "\1")
    spans = [Span(span.text.replace("\0", ")").replace("\1", "("), span.weight) for span in _nested(hidden, 1.0)]
    return [span for span in spans if span.text] or [Span("")]


def _nested(text: str, weight: float, depth: int = 0) -> Iterator[Span]:
    for part in _groups(text):
        if depth == DEEPEST or len(part) < 2 or part[0] != "(" or part[-1] != ")":
            yield Span(part, weight)
            continue
        inner, number = part[1:-1], None
        if (colon := inner.rfind(":")) > 0:
            number = _finite(inner[colon + 1 :])
        if number is None:
            yield from _nested(inner, weight * STEP, depth + 1)
        else:
            yield from _nested(inner[:colon], number, depth + 1)


def _groups(text: str) -> Iterator[str]:
    """The bracketed groups of the outermost level, and the texts between them. A bracket too many at the end of a level
    leaves the level below the outermost one, where no group begins.
    """
    start = level = 0
    for n, letter in enumerate(text):
        if letter == "(":
            if level == 0 and n > start:
                yield text[start:n]
                start = n
            level += 1
        elif letter == ")":
            level -= 1
            if level == 0:
                yield text[start : n + 1]
                start = n + 1
    if start < len(text):
        yield text[start:]


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
