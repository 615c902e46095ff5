"""From a prompt to chunks of 77 tokens, as the text encoders take them, each with the weight of each token."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from ..errors import ArgumentError, brief, warn
from .emphasis import Span, a1111_spans, comfyui_spans, plain_spans
from .grammars import SYNTAXES
from .tokenizer import MOST_CHUNKS, NO_WORDS, Token, Tokenizer, Words

_GRAMMARS = dict(zip(SYNTAXES, (plain_spans, a1111_spans, comfyui_spans), strict=True))
_BACKTRACK = 20  # tokens between a chunk's end and the comma at which it is cut in place of its end
_NAME = re.compile(r"(?<!\S)embedding:(\S+)")
_SHORT = 8  # tokens; ComfyUI does not cut a shorter text of one weight


@dataclass(frozen=True)
class Reading:
    """How a prompt is read: its `syntax`, whether a long one is cut off at its first chunk, and how weights act."""

    syntax: str = "plain"
    truncates: bool = True
    emphasis: str = "none"


@dataclass(frozen=True)
class Chunk:
    """The ids of a chunk, start to pads, and the weight of each; `length` of them are between start and end. `inserts`
    are learned words: word, place, and number of vectors.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    length: int
    inserts: tuple[tuple[str, int, int], ...] = ()


@dataclass
class _Filling:
    """A chunk that is being filled: tokens with their weights. `comma` counts those up to the last comma."""

    tokens: list[tuple[Token, float]] = field(default_factory=list)
    comma: int | None = None

    @property
    def length(self) -> int:
        return sum(token.count for token, _ in self.tokens)


def make_chunks(tokenizer: Tokenizer, text: str, reading: Reading, words: Words = NO_WORDS) -> list[Chunk]:
    """The chunks of a prompt, of which there is at least one. Warns of what is truncated. Raises `ArgumentError` for
    more than `MOST_CHUNKS`.
    """
    parts = _read(tokenizer, text, reading, words)
    if reading.truncates:
        if any(part.span.breaks for part in parts):
            warn("BREAK has no effect where a long prompt is truncated")
        return [_close(tokenizer, _first(tokenizer, text, parts))]
    fill = _fill_comfyui if reading.syntax == "comfyui" else _fill
    filled = fill(tokenizer, parts)
    if len(filled) > MOST_CHUNKS:
        raise ArgumentError(
            f"the prompt {brief(text)} takes more than {MOST_CHUNKS} chunks of {tokenizer.room} tokens; shorten it"
        )
    return [_close(tokenizer, each.tokens) for each in filled]


@dataclass(frozen=True)
class _Part:
    """A span of a prompt with its tokens, in groups that ComfyUI keeps in one chunk if they are short."""

    span: Span
    groups: tuple[tuple[Token, ...], ...]

    @property
    def tokens(self) -> list[Token]:
        return [token for group in self.groups for token in group]


def _read(tokenizer: Tokenizer, text: str, reading: Reading, words: Words) -> list[_Part]:
    """The spans of a prompt with their tokens."""
    spans = _GRAMMARS[reading.syntax](text)
    if reading.syntax == "comfyui":
        return [_Part(span, tuple(_read_names(tokenizer, span.text, words))) for span in spans]
    return [_Part(span, (tuple(tokenizer.read(span.text, words)),)) for span in spans]


def words_of(tokenizer: Tokenizer, text: str, reading: Reading, words: Words) -> set[str]:
    """The learned words that a prompt has."""
    parts = _read(tokenizer, text, reading, words)
    return {token.word for part in parts for token in part.tokens if token.word is not None}


def unknown_names(text: str, reading: Reading, words: Words) -> list[str]:
    """The names of ComfyUI's `embedding:name` in a prompt that are no learned words."""
    if reading.syntax != "comfyui":
        return []
    names = [match[1].rstrip(",") for span in comfyui_spans(text) for match in _NAME.finditer(span.text)]
    return [name for name in names if _word_of(name, words) is None]


def _read_names(tokenizer: Tokenizer, text: str, words: Words) -> Iterator[tuple[Token, ...]]:
    """The tokens of a text with ComfyUI's `embedding:name` for learned words; unknown names are left out."""
    at = 0
    for match in _NAME.finditer(text):
        name = match[1].rstrip(",")
        yield _tokens(tokenizer, text, at, match.start())
        if (word := _word_of(name, words)) is not None:
            yield (Token(0, match.start(), word, words[word][1]),)
        at = match.start(1) + len(name)
    yield _tokens(tokenizer, text, at, len(text))


def _tokens(tokenizer: Tokenizer, text: str, start: int, end: int) -> tuple[Token, ...]:
    return tuple(replace(token, start=token.start + start) for token in tokenizer.read(text[start:end]))


def _word_of(name: str, words: Words) -> str | None:
    """The learned word of a name, which may have a folder before it and the ending of a file."""
    file = re.split(r"[/\\]", name)[-1]
    tried = [name, file, re.sub(r"\.(safetensors|pt|bin)$", "", file)]
    return next((each for each in tried if each in words), None)


def _first(tokenizer: Tokenizer, text: str, parts: Sequence[_Part]) -> list[tuple[Token, float]]:
    """What there is room for in one chunk."""
    whole = text if len(parts) == 1 else "".join(part.span.text for part in parts)
    starts = list(accumulate((len(part.span.text) for part in parts), initial=0))
    tokens = [
        (replace(token, start=token.start + start), part.span.weight)
        for start, part in zip(starts[:-1], parts, strict=True)
        for token in part.tokens
    ]
    kept = tokenizer.cut(whole, [token for token, _ in tokens])
    return [(token, weight) for token, (_, weight) in zip(kept, tokens[: len(kept)], strict=True)]


def _fill(tokenizer: Tokenizer, parts: Sequence[_Part]) -> list[_Filling]:
    """AUTOMATIC1111's chunks: a full one ends behind its last comma, if that is near its end; a break ends one."""
    comma = tokenizer.ids(",")
    chunks = [_Filling()]
    for part in parts:
        for token in part.tokens:
            current, is_comma = chunks[-1], [token.id] == comma and token.word is None
            full = current.length + token.count > tokenizer.room
            if full and not is_comma and current.length == tokenizer.room and _is_near(current, tokenizer.room):
                chunks.append(_Filling(current.tokens[current.comma :]))
                del current.tokens[current.comma :]
                full = chunks[-1].length + token.count > tokenizer.room
            if full:
                chunks.append(_Filling())
            chunks[-1].tokens.append((token, part.span.weight))
            if is_comma:
                chunks[-1].comma = len(chunks[-1].tokens)
        if part.span.breaks:
            chunks.append(_Filling())
    return chunks if chunks[-1].tokens or len(chunks) == 1 else chunks[:-1]


def _is_near(chunk: _Filling, room: int) -> bool:
    """Whether the last comma of a full chunk is near its end."""
    if chunk.comma is None:
        return False
    place = sum(token.count for token, _ in chunk.tokens[: chunk.comma]) - 1
    return room - place <= _BACKTRACK


def _fill_comfyui(tokenizer: Tokenizer, parts: Sequence[_Part]) -> list[_Filling]:
    """ComfyUI's chunks: a short text of one weight is moved to the next one whole, another is cut anywhere."""
    chunks = [_Filling()]
    for part in parts:
        for group in part.groups:
            length = sum(token.count for token in group)
            if length < _SHORT and chunks[-1].length + length > tokenizer.room:
                chunks.append(_Filling())
            for token in group:
                if chunks[-1].length + token.count > tokenizer.room:
                    chunks.append(_Filling())
                chunks[-1].tokens.append((token, part.span.weight))
    return chunks


def _close(tokenizer: Tokenizer, tokens: Sequence[tuple[Token, float]]) -> Chunk:
    ids: list[int] = []
    weights = [1.0]
    inserts = []
    for token, weight in tokens:
        if token.word is not None:
            inserts.append((token.word, len(ids) + 1, token.count))
        ids += [token.id] * token.count
        weights += [weight] * token.count
    weights += [1.0] * (tokenizer.length - len(weights))
    return Chunk(tuple(tokenizer.framed(ids)), tuple(weights), len(ids), tuple(inserts))


def padded(chunks: Sequence[Chunk], count: int, tokenizer: Tokenizer) -> list[Chunk]:
    """The chunks, and empty ones behind them."""
    return [*chunks, *(_close(tokenizer, []) for _ in range(count - len(chunks)))]
