"""From a prompt to chunks of 77 tokens, as the text encoders take them, each with the weight of each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import ArgumentError, brief
from .emphasis import Span, a1111_spans, comfyui_spans, plain_spans
from .grammars import SYNTAXES
from .tokenizer import MOST_CHUNKS, NO_WORDS, Token, Tokenizer, Words

_GRAMMARS = dict(zip(SYNTAXES, (plain_spans, a1111_spans, comfyui_spans), strict=True))
_BACKTRACK = 20  # tokens between a chunk's end and the comma at which it is cut in place of its end
_SHORT = 8  # tokens; ComfyUI does not cut a shorter text of one weight


@dataclass(frozen=True)
class Reading:
    """How a prompt is read: its `syntax`, whether a long one is cut off at its first chunk, and how weights act."""

    syntax: str = "plain"
    truncates: bool = True
    emphasis: str = "none"


@dataclass(frozen=True)
class Chunk:
    """The ids of a chunk, start to pads, and the weight of each. `inserts` are learned words: word, place, and number
    of vectors.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
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
    spans = _GRAMMARS[reading.syntax](text)
    groups = [[(token, span.weight) for token in tokenizer.read(span.text, words)] for span in spans]
    if reading.truncates:
        return [_close(tokenizer, _first(tokenizer, text, spans, groups))]
    fill = _fill_comfyui if reading.syntax == "comfyui" else _fill
    filled = fill(tokenizer, spans, groups)
    if len(filled) > MOST_CHUNKS:
        raise ArgumentError(
            f"the prompt {brief(text)} takes more than {MOST_CHUNKS} chunks of {tokenizer.room} tokens; shorten it"
        )
    return [_close(tokenizer, each.tokens) for each in filled]


Groups = Sequence[Sequence[tuple[Token, float]]]


def _first(tokenizer: Tokenizer, text: str, spans: Sequence[Span], groups: Groups) -> list[tuple[Token, float]]:
    """What there is room for in one chunk."""
    tokens = [pair for group in groups for pair in group]
    whole = text if len(spans) == 1 else "".join(span.text for span in spans)
    starts = [sum(len(span.text) for span in spans[:n]) for n in range(len(spans))]
    placed = [
        Token(token.id, token.start + start, token.word, token.count)
        for start, group in zip(starts, groups, strict=True)
        for token, _ in group
    ]
    kept = tokenizer.cut(whole, placed, stacklevel=6)
    return [(token, weight) for token, (_, weight) in zip(kept, tokens, strict=False)]


def _fill(tokenizer: Tokenizer, spans: Sequence[Span], groups: Groups) -> list[_Filling]:
    """AUTOMATIC1111's chunks: a full one ends behind its last comma, if that is near its end; a break ends one."""
    comma = tokenizer.ids(",")
    chunks = [_Filling()]
    for span, group in zip(spans, groups, strict=True):
        for token, weight in group:
            current, is_comma = chunks[-1], [token.id] == comma and token.word is None
            full = current.length + token.count > tokenizer.room
            if full and not is_comma and current.length == tokenizer.room and _is_near(current, tokenizer.room):
                chunks.append(_Filling(current.tokens[current.comma :]))
                del current.tokens[current.comma :]
                full = chunks[-1].length + token.count > tokenizer.room
            if full:
                chunks.append(_Filling())
            chunks[-1].tokens.append((token, weight))
            if is_comma:
                chunks[-1].comma = len(chunks[-1].tokens)
        if span.breaks:
            chunks.append(_Filling())
    return chunks if chunks[-1].tokens or len(chunks) == 1 else chunks[:-1]


def _is_near(chunk: _Filling, room: int) -> bool:
    """Whether the last comma of a full chunk is near its end."""
    if chunk.comma is None:
        return False
    place = sum(token.count for token, _ in chunk.tokens[: chunk.comma]) - 1
    return room - place <= _BACKTRACK


def _fill_comfyui(tokenizer: Tokenizer, spans: Sequence[Span], groups: Groups) -> list[_Filling]:
    """ComfyUI's chunks: a short text of one weight is moved to the next one whole, another is cut anywhere."""
    chunks = [_Filling()]
    for group in groups:
        left = list(group)
        length = sum(token.count for token, _ in left)
        if length < _SHORT and chunks[-1].length + length > tokenizer.room:
            chunks.append(_Filling())
        for token, weight in left:
            if chunks[-1].length + token.count > tokenizer.room:
                chunks.append(_Filling())
            chunks[-1].tokens.append((token, weight))
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
    return Chunk(
        tuple(tokenizer.framed(ids)), tuple(weights + [1.0] * (tokenizer.length - len(weights))), tuple(inserts)
    )


def padded(chunks: Sequence[Chunk], count: int, tokenizer: Tokenizer) -> list[Chunk]:
    """The chunks, and empty ones behind them."""
    return [*chunks, *(_close(tokenizer, []) for _ in range(count - len(chunks)))]
