"""CLIP's byte-pair tokenizer, on `tokenizers`: text in, 77 ids out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from ..errors import CheckpointError, brief, warn
from .vocabulary import TokenizerConfig, Vocabulary, clip_vocabulary

_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

_END, _LETTERS = "</w>", decoders.ByteLevel()
_MANY = 2**15  # characters, far more than a text encoder takes tokens
MOST_CHUNKS = 32  # of a prompt that is encoded in pieces
Words = Mapping[str, tuple[Sequence[int], int]]
"""Learned words: the ids that stand for each in a text, and how many places its vectors take."""
NO_WORDS: Words = {}


@dataclass(frozen=True)
class Token:
    """A token's id and its place in the text; a learned `word` takes `count` places, with the id 0."""

    id: int
    start: int
    word: str | None = None
    count: int = 1


def make_backend(vocabulary: Vocabulary, unknown: str) -> Backend:
    """The byte-pair encoder, without special tokens."""
    backend = Backend(
        BPE(
            vocab=dict(vocabulary.ids),
            merges=list(vocabulary.merges),
            continuing_subword_prefix="",
            end_of_word_suffix=_END,
            fuse_unk=False,
            unk_token=unknown,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return backend


class Tokenizer:
    """Text to ids, as many as the tokenizer's length or, if fewer, the text encoder's `positions`."""

    def __init__(self, config: TokenizerConfig, positions: int = 77) -> None:
        vocabulary = config.vocabulary or clip_vocabulary()
        self.config = config
        self.length = min(config.length, positions)
        self._backend = make_backend(vocabulary, config.eos)
        self._backend.add_tokens([AddedToken(token, normalized=True) for token in config.added])
        self._backend.add_special_tokens([AddedToken(token, normalized=False) for token in config.special])
        self.bos, self.eos, self.pad = (self._id(token) for token in (config.bos, config.eos, config.pad))

    def _id(self, token: str) -> int:
        number = self._backend.token_to_id(token)
        if number is None:
            raise CheckpointError(
                f"the tokenizer's special token {token!r} is not in its vocabulary; download both again"
            )
        return int(number)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text: start, at most `length` - 2 tokens, end, pads. Warns of the text that it cuts off."""
        return [self.framed([token.id for token in self.cut(text, self.read(text, chunks=1))]) for text in texts]

    def framed(self, ids: Sequence[int]) -> list[int]:
        """Ids between start and end, filled up with pads."""
        return [self.bos, *ids, self.eos] + [self.pad] * (self.length - 2 - len(ids))

    def ids(self, text: str) -> list[int]:
        """The ids of a text alone, without start, end and pads."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def spell(self, number: int) -> str:
        """A token as text: as in its word, with a blank at the word's end. A part of a letter is shown as \ufffd."""
        token = self._backend.id_to_token(number) or ""
        if token in (self.config.bos, self.config.eos, self.config.pad, *self.config.special):
            return token
        word = token.removesuffix(_END)
        return _LETTERS.decode([word]) + (" " if word != token else "")

    @property
    def room(self) -> int:
        """How many tokens there are between start and end."""
        return self.length - 2

    def read(self, text: str, words: Words = NO_WORDS, chunks: int = MOST_CHUNKS) -> list[Token]:
        """The tokens of a text, with those of `words` as one token each; the longest word wins. Of a huge text as many
        as `chunks` have room for, and some more.
        """
        taken = _beginning(text, _MANY)
        tokens = self._read(taken, words)
        while len(tokens) <= chunks * self.room and len(taken) < len(text):  # mostly spaces
            taken = _beginning(text, 2 * len(taken))
            tokens = self._read(taken, words)
        return tokens

    def _read(self, text: str, words: Words) -> list[Token]:
        """The same of a whole text. A word with a mark at its edge, such as <cat>, is found as it is written: its last
        mark may be one token with the mark behind it.
        """
        marked = sorted((word for word in words if not (word[0] + word[-1]).isalnum()), key=len, reverse=True)
        if not marked:
            return self._between(text, words, 0)
        tokens, end, named = [], 0, {word.lower(): word for word in marked}
        for found in re.finditer("|".join(map(re.escape, marked)), text, re.IGNORECASE):
            word = named.get(found[0].lower())
            if word is not None:
                tokens += self._between(text[end : found.start()], words, end)
                tokens.append(Token(0, found.start(), word, words[word][1]))
                end = found.end()
        return [*tokens, *self._between(text[end:], words, end)]

    def _between(self, text: str, words: Words, start: int) -> list[Token]:
        """The tokens of a part of a text that begins at `start`."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids, offsets = encoding.ids, encoding.offsets  # each of them is a new list whenever it is asked for
        order = sorted(words, key=lambda word: -len(words[word][0]))
        tokens, at = [], 0
        while at < len(ids):
            word = next((w for w in order if ids[at : at + len(words[w][0])] == list(words[w][0])), None)
            if word is None:
                tokens.append(Token(ids[at], start + offsets[at][0]))
                at += 1
            else:
                tokens.append(Token(0, start + offsets[at][0], word, words[word][1]))
                at += len(words[word][0])
        return tokens

    def cut(self, text: str, tokens: Sequence[Token]) -> list[Token]:
        """As many tokens of a text as there is room for, the last perhaps with fewer places. Warns of the rest."""
        kept, room = [], self.room
        for number, token in enumerate(tokens):
            if token.count > room:
                if room:
                    kept.append(replace(token, count=room))
                total = sum(each.count for each in tokens)
                more = "more than " if len(text) > _MANY else ""
                after = tokens[number + bool(room) :]
                rest = text[after[0].start :] if after else ""
                warn(
                    f"the prompt has {more}{total} tokens and the text encoder takes {self.room}; this part was cut "
                    f"off: {brief(rest)}"
                )
                break
            kept.append(token)
            room -= token.count
        return kept


def _beginning(text: str, length: int) -> str:
    """At most `length` characters from the start of a text. It ends between two words if they are shorter than half of
    that, so the tokens are those of the whole text.
    """
    if length >= len(text):
        return text
    end = max(text.rfind(space, length // 2, length) for space in " \n")
    return text[: length if end < 0 else end]
