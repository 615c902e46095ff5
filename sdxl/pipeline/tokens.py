"""The tokens of a prompt as each text encoder gets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ArgumentError, brief
from ..text.chunks import Chunk, Reading, make_chunks
from ..text.editing import split_and, split_tags, stretches
from ..text.tokenizer import Tokenizer
from ..weights.info import ModelInfo


@dataclass(frozen=True)
class Tokens:
    """A prompt for one text encoder: for each chunk the 77 ids, start, end and pads included, the weight of each, and
    each as text; `lengths` are the numbers of tokens between start and end. The vectors of a learned word have the id 0
    and the word as their text.
    """

    encoder: str
    ids: list[list[int]]
    weights: list[list[float]]
    tokens: list[list[str]]
    lengths: list[int]


@dataclass(frozen=True)
class Variant:
    """What is in force up to a step, counted from 1, in a part of a prompt: parts (AND) have weights."""

    part: int
    weight: float
    last: int
    text: str


def variants(text: str, syntax: str, steps: int) -> list[Variant]:
    """The texts that a prompt has in `steps` steps, without tags; one, unless it changes or has several parts."""
    if syntax != "a1111":
        return [Variant(1, 1.0, steps, text)]
    return [
        Variant(part, weight, each.last, each.text)
        for part, (own, weight) in enumerate(split_and(split_tags(text)[0]), 1)
        for each in stretches(own, steps)
    ]


def tokenize(
    tokenizers: Mapping[str, Tokenizer], text: str, reading: Reading, counts: Mapping[str, int]
) -> list[Tokens]:
    """The tokens of a text for each text encoder, by the tokenizers of these; `counts` are the numbers of the vectors
    of learned words. Raises `ArgumentError` for a prompt of several variants.
    """
    own = variants(text, reading.syntax, 30)
    if len(own) > 1:
        raise ArgumentError(
            f"the prompt {brief(text)} is {len(own)} texts, such as {brief(own[0].text)} and {brief(own[1].text)}; "
            "give one of them"
        )
    return [_tokens(name, each, own[0].text, reading, counts) for name, each in tokenizers.items()]


def tokenizers_of(info: ModelInfo) -> dict[str, Tokenizer]:
    """The tokenizers of a model's text encoders."""
    return {name: Tokenizer(info.tokenizers[name], config.positions) for name, config in info.encoders.items()}


def _tokens(name: str, tokenizer: Tokenizer, text: str, reading: Reading, counts: Mapping[str, int]) -> Tokens:
    words = {word: (tokenizer.ids(word), count) for word, count in counts.items()}
    chunks = make_chunks(tokenizer, text, reading, words)
    return Tokens(
        name,
        [list(chunk.ids) for chunk in chunks],
        [list(chunk.weights) for chunk in chunks],
        [_spelled(tokenizer, chunk) for chunk in chunks],
        [chunk.length for chunk in chunks],
    )


def _spelled(tokenizer: Tokenizer, chunk: Chunk) -> list[str]:
    spelled = [tokenizer.spell(number) for number in chunk.ids]
    for word, place, count in chunk.inserts:
        spelled[place : place + count] = [word] * count
    return spelled
