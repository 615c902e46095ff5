"""CLIP's byte-pair tokenizer, on `tokenizers`: text in, 77 ids out.

The vocabulary of OpenAI's CLIP ships with the package; the tokenizer files of a checkpoint override it.
"""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from typing import Any

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from ..errors import CheckpointError, SDXLWarning, brief
from ..models.config import MIN_TOKENS

_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_NO_LIMIT = 10**6  # transformers writes 1e30 for "no limit"
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
    return _vocabulary([(a, b) for a, b in (line.split() for line in lines)])


def _vocabulary(merges: Sequence[tuple[str, str]]) -> Vocabulary:
    """CLIP's order of tokens: bytes, bytes at the end of a word, merges, start and end of text."""
    letters = [chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))]
    letters += [chr(256 + n) for n in range(256 - len(letters))]  # GPT-2's stand-ins for unprintable bytes
    tokens = letters + [c + "</w>" for c in letters] + [a + b for a, b in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return Vocabulary({token: n for n, token in enumerate(tokens)}, tuple(merges))


def learn_vocabulary(texts: Iterable[str], size: int) -> Vocabulary:
    """A vocabulary of at most `size` tokens in CLIP's order, with the merges that byte-pair encoding finds in texts."""
    backend = _backend(_vocabulary([]), CLIP_L.eos)
    letters = [token for token in _vocabulary([]).ids if len(token) == 1]
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    found = json.loads(backend.to_str())["model"]["merges"]
    pairs = (
        merge.split(" ") if isinstance(merge, str) else merge for merge in found
    )  # a string before tokenizers 0.20
    return _vocabulary([(a, b) for a, b in pairs][: size - 2 * len(letters) - 2])


def _backend(vocabulary: Vocabulary, unknown: str) -> Backend:
    """The byte-pair encoder, without special tokens."""
    backend = Backend(
        BPE(
            vocab=dict(vocabulary.ids),
            merges=list(vocabulary.merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
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
        self._backend = _backend(vocabulary, config.eos)
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
        return [self.replace(text, {})[0] for text in texts]

    def ids(self, text: str) -> list[int]:
        """The ids of a text alone, without start, end and pads."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def replace(
        self, text: str, words: Mapping[str, tuple[Sequence[int], int]]
    ) -> tuple[list[int], list[tuple[str, int, int]]]:
        """The ids of a text, start to pads, with `words` replaced: each has the ids to find and the number of zeros to
        replace them. The longest word wins. Also word, position and number of zeros of each replacement; the number is
        smaller if the text is cut off there.
        """
        encoding = self._backend.encode(text, add_special_tokens=False)
        order = sorted(words, key=lambda word: -len(words[word][0]))
        ids: list[int] = []
        starts: list[int] = []  # of each id's token in the text
        found: list[tuple[str, int, int]] = []
        i, room = 0, self.length - 2
        while i < len(encoding.ids):
            word = next((w for w in order if encoding.ids[i : i + len(words[w][0])] == list(words[w][0])), None)
            count = 1 if word is None else words[word][1]
            if word is not None and len(ids) < room:
                found.append((word, len(ids) + 1, min(count, room - len(ids))))
            ids += [encoding.ids[i]] if word is None else [0] * count
            starts += [encoding.offsets[i][0]] * count
            i += 1 if word is None else len(words[word][0])
        if len(ids) > room:
            warnings.warn(
                f"the prompt has {len(ids)} tokens and the text encoder takes {room}; this part was cut off: "
                f"{text[starts[room] :]!r}",
                SDXLWarning,
                stacklevel=5,
            )
        ids = [self.bos, *ids[:room], self.eos]
        return ids + [self.pad] * (self.length - len(ids)), found
