"""Prompts that change while an image is made, in AUTOMATIC1111's grammar: [from:to:when] and [a|b], AND, and tags."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from ..errors import ArgumentError, brief
from .grammars import NUMBER

_NUMBER = re.compile(rf"\s*({NUMBER}(?:[eE][+-]?\d+)?)\s*")
_WEIGHT = re.compile(rf"\s*{NUMBER}\s*")
_MOST_PARTS = 32  # of a prompt with ANDs: each is a pass of the network
_MANY = 1e6  # more steps than there are
_DEEPEST = 50  # brackets within brackets
_TAG = re.compile(r"<(\w+):([^<>]+)>")


@dataclass(frozen=True)
class Stretch:
    """The text of the steps up to number `last`, counted from 1."""

    text: str
    last: int


@dataclass(frozen=True)
class Tag:
    """`<kind:name:first:second>`, with the values behind the name as they stand."""

    kind: str
    name: str
    values: tuple[str, ...]


def split_tags(text: str) -> tuple[str, list[Tag]]:
    """A prompt without its tags, such as `<lora:style:0.8>`, and the tags. The blanks around them stay."""
    tags = []
    for kind, inner in _TAG.findall(text):
        name, *values = inner.split(":")
        tags.append(Tag(kind, name.strip(), tuple(value.strip() for value in values)))
    return _TAG.sub("", text), tags


def split_and(text: str, alone: bool = False) -> list[tuple[str, float]]:
    """The parts of a prompt between ANDs, with the weights at their ends (`a cat :1.2 AND a dog`); without an AND the
    whole text, unless one part `alone` has a weight too. Raises `ArgumentError` for more than 32 parts.
    """
    parts = re.split(r"\bAND\b", text)
    if len(parts) == 1 and not alone:
        return [(text, 1.0)]
    if len(parts) > _MOST_PARTS:
        raise ArgumentError(
            f"the prompt {brief(text)} has {len(parts)} parts joined by AND; expected at most {_MOST_PARTS}. Try fewer"
        )
    return [_weighted(part) for part in parts]


def _weighted(part: str) -> tuple[str, float]:
    """A part of a prompt, without the weight at its end and the blanks there, and the weight."""
    before, colon, number = part.rpartition(":")
    if colon and _WEIGHT.fullmatch(number):
        return before.rstrip(), float(number)
    return part.rstrip(), 1.0


def stretches(text: str, steps: int, before: int = 0) -> list[Stretch]:
    """The texts of a prompt in `steps` steps: [from:to:when] is `from` up to step `when` (a number with a point is a
    part of the steps), [a|b] changes with each step. What is neither is left as it is. In a second pass, with the
    `before` steps of the first one, steps are counted through both, and parts from 1.0.
    """
    nodes = _parse(text, _brackets(text), 0, len(text))
    if all(isinstance(node, str) for node in nodes):
        return [Stretch(text, steps)]
    texts = (_render(nodes, _Pass(step, steps, before)) for step in range(1, steps + 1))
    found, last = [], 0
    for same, group in groupby(texts):
        last += len(list(group))
        found.append(Stretch(same, last))
    return found or [Stretch(_render(nodes, _Pass(1, 1, before)), steps)]


@dataclass(frozen=True)
class _Pass:
    """Step number `step`, from 1, of the `steps` of a pass; of a second pass, `before` are the steps of the first."""

    step: int
    steps: int
    before: int

    def last(self, when: str) -> int:
        """The last step up to `when`."""
        number = max(-_MANY, min(float(when), _MANY))
        if "." in when:
            return min(self.steps, int((number - bool(self.before)) * self.steps))
        return min(self.steps, int(number) - self.before)


@dataclass(frozen=True)
class _Choice:
    """Alternatives, each a sequence of nodes. With `when`, the first up to that step and then the second."""

    alternatives: Sequence[Sequence[str | _Choice]]
    when: str | None = None

    def at(self, now: _Pass) -> Sequence[str | _Choice]:
        if self.when is None:
            return self.alternatives[(now.step - 1) % len(self.alternatives)]
        return self.alternatives[0 if now.step <= now.last(self.when) else 1]


_Node = str | _Choice


def _render(nodes: Sequence[_Node], now: _Pass) -> str:
    return "".join(node if isinstance(node, str) else _render(node.at(now), now) for node in nodes)


@dataclass
class _Bracket:
    """A closed bracket: the places of `:` and `|` directly within it, and of its end."""

    marks: list[int]
    close: int


def _brackets(text: str) -> dict[int, _Bracket]:
    """The square brackets of a text by their places, in one pass. Those that cross others, or are not closed, are
    text.
    """
    found: dict[int, _Bracket] = {}
    stack: list[tuple[int, str, list[int]]] = []
    at = 0
    while at < len(text):
        letter = text[at]
        if letter == "\\":
            at += 1
        elif letter in "([" and len(stack) < _DEEPEST:
            stack.append((at, letter, []))
        elif letter in ")]" and stack and stack[-1][1] == {")": "(", "]": "["}[letter]:
            start, kind, marks = stack.pop()
            if kind == "[":
                found[start] = _Bracket(marks, at)
        elif letter in ")]":
            stack.clear()
        elif letter in ":|" and stack:
            stack[-1][2].append(at)
        at += 1
    return found


def _parse(text: str, brackets: Mapping[int, _Bracket], start: int, end: int) -> list[_Node]:
    """The text between two places as texts and choices."""
    nodes: list[_Node] = []
    plain = at = start
    while (at := text.find("[", at, end)) >= 0:
        choice = _choice(text, brackets, at) if at in brackets else None
        if choice is None:
            at += 1
            continue
        nodes += [text[plain:at], choice]
        plain = at = brackets[at].close + 1
    nodes.append(text[plain:end])
    return [node for node in nodes if node != ""]


def _choice(text: str, brackets: Mapping[int, _Bracket], start: int) -> _Choice | None:
    """The choice that the bracket at `start` is; None if it is none."""
    bracket = brackets[start]
    signs = {text[mark] for mark in bracket.marks}
    edges = [start, *bracket.marks, bracket.close]
    parts = [(a + 1, b) for a, b in pairwise(edges)]
    if signs == {"|"}:
        return _Choice([_parse(text, brackets, *part) for part in parts])
    if signs == {":"} and len(parts) in (2, 3) and (number := _NUMBER.fullmatch(text, *parts[-1])):
        before = _parse(text, brackets, *parts[0]) if len(parts) == 3 else []
        return _Choice([before, _parse(text, brackets, *parts[-2])], number[1])
    return None
