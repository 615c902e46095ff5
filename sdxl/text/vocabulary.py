"""The data of a tokenizer: its vocabulary, its special tokens and its length.

The vocabulary of OpenAI's CLIP ships with the package; the tokenizer files of a checkpoint override it.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from typing import Any

from ..errors import CheckpointError, brief
from ..models.bounds import MIN_TOKENS

_MOST_ADDED = 10_000  # tokens in addition to a vocabulary; `tokenizers` compares each with all others
_CLIP_SIZE = 49408
_CLIP_TOKENS = ("<|startoftext|>", "<|endoftext|>", "!")  # the tokens of CLIP's vocabulary that configs use


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and their ids, and the merges in the order of their rank."""

    ids: Mapping[str, int] = field(repr=False)
    merges: tuple[tuple[str, str], ...] = field(repr=False)

    def check(self) -> None:
        """Raise `CheckpointError` if `tokenizers` would raise, or if an id belongs to no token or to two."""
        if not isinstance(self.ids, dict) or not _are_tokens(self.ids):
            raise CheckpointError("the vocabulary is not an object of tokens and their ids; download it again")
        numbers = list(self.ids.values())
        if set(map(type, numbers)) != {int} or sorted(numbers) != list(range(len(numbers))):
            raise CheckpointError(
                f"the ids of the vocabulary are not 0 to {len(numbers) - 1}, once each; download it again"
            )
        for a, b in self.merges:
            if not (
                isinstance(a, str) and isinstance(b, str) and a in self.ids and b in self.ids and a + b in self.ids
            ):
                raise CheckpointError(f"the vocabulary lacks a token of the merge {brief((a, b))}; download it again")


def _are_tokens(values: Iterable[object]) -> bool:
    """Whether all are strings that `tokenizers` accepts: not empty, without half a UTF-16 pair."""
    if not all(isinstance(value, str) and value for value in values):
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in set("".join(map(str, values))))


@dataclass(frozen=True)
class TokenizerConfig:
    """The data of a tokenizer. `vocabulary` None is CLIP's own.

    `special` tokens are recognised in the text before it is split into words, `added` ones get ids after the
    vocabulary. In a folder the pad token is special: with "!" as pad, every "!" of a prompt becomes the pad id.
    """

    bos: str = "<|startoftext|>"
    eos: str = "<|endoftext|>"
    pad: str = "<|endoftext|>"
    length: int = 77
    special: tuple[str, ...] = ("<|startoftext|>", "<|endoftext|>")
    added: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        tokens = (self.bos, self.eos, self.pad, *self.special, *self.added)
        if not _are_tokens(tokens) or len(tokens) > _MOST_ADDED:
            raise CheckpointError(
                f"the special and added tokens {brief(tokens)} are not strings, or too many; download them again"
            )
        if type(self.length) is not int or self.length < MIN_TOKENS:
            raise CheckpointError(
                f"the tokenizer's length is {brief(self.length)}; expected at least {MIN_TOKENS}, download it again"
            )
        for token in (self.bos, self.pad):
            if token not in self.special and token not in self.added and not self._has(token):
                raise CheckpointError(
                    f"the tokenizer's special token {brief(token)} is not in its vocabulary; download both again"
                )
        if not self._has(self.eos):  # it also replaces unknown tokens
            raise CheckpointError(
                f"the tokenizer's end token {brief(self.eos)} is not in its vocabulary; download both again"
            )

    def _has(self, token: str) -> bool:
        """Whether a token is in the vocabulary; CLIP's own is unpacked only for unusual tokens."""
        if self.vocabulary is None and token in _CLIP_TOKENS:
            return True
        return token in (self.vocabulary or clip_vocabulary()).ids

    @property
    def size(self) -> int:
        """The number of ids; tokens that the vocabulary lacks have ids after it."""
        more = {token for token in (*self.special, *self.added) if not self._has(token)}
        return (len(self.vocabulary.ids) if self.vocabulary else _CLIP_SIZE) + len(more)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads; CLIP's own vocabulary is left out."""
        data = {each.name: getattr(self, each.name) for each in fields(self)}
        if self.vocabulary:
            data["vocabulary"] = {"ids": dict(self.vocabulary.ids), "merges": self.vocabulary.merges}
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TokenizerConfig:
        """The inverse of `to_json`."""
        table = data["vocabulary"]
        vocabulary = table and Vocabulary(table["ids"], tuple((a, b) for a, b in table["merges"]))
        if vocabulary:
            vocabulary.check()
        return TokenizerConfig(
            data["bos"],
            data["eos"],
            data["pad"],
            data["length"],
            tuple(data["special"]),
            tuple(data["added"]),
            vocabulary,
        )


CLIP_L = TokenizerConfig()
CLIP_G = TokenizerConfig(pad="!")  # id 0; in OpenCLIP zeros fill the row and "!" is an ordinary token


@cache
def clip_vocabulary() -> Vocabulary:
    """OpenAI's: 256 bytes, the same at the end of a word, 48,894 merges, start and end of text: 49,408 tokens."""
    packed = resources.files(__package__).joinpath("data/bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode().split("\n")[1:48895]  # the first line is a header
    return make_vocabulary([(a, b) for a, b in (line.split() for line in lines)])


def make_vocabulary(merges: Sequence[tuple[str, str]]) -> Vocabulary:
    """CLIP's order of tokens: bytes, bytes at the end of a word, merges, start and end of text."""
    letters = [chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))]
    letters += [chr(256 + n) for n in range(256 - len(letters))]  # GPT-2's stand-ins for unprintable bytes
    tokens = letters + [c + "</w>" for c in letters] + [a + b for a, b in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return Vocabulary({token: n for n, token in enumerate(tokens)}, tuple(merges))
