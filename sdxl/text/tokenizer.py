"""CLIP's byte-pair tokenizer, on `tokenizers`: text in, 77 ids out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from ..errors import CheckpointError, SDXLWarning, brief
from .vocabulary import TokenizerConfig, Vocabulary, clip_vocabulary

_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

_MANY = 2**15  # characters, far more than a text encoder takes tokens


def make_backend(vocabulary: Vocabulary, unknown: str) -> Backend:
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
        taken = _beginning(text, _MANY)
        ids, starts, found = self._replace(taken, words)
        room = self.length - 2
        while len(ids) <= room and len(taken) < len(text):  # mostly spaces
            taken = _beginning(text, 2 * len(taken))
            ids, starts, found = self._replace(taken, words)
        if len(ids) > room:
            more = "more than " if len(taken) < len(text) else ""
            warnings.warn(
                f"the prompt has {more}{len(ids)} tokens and the text encoder takes {room}; this part was cut off: "
                f"{brief(text[starts[room] :])}",
                SDXLWarning,
                stacklevel=5,
            )
        kept = [self.bos, *ids[:room], self.eos]
        return kept + [self.pad] * (self.length - len(kept)), found

    def find(self, text: str, words: Mapping[str, tuple[Sequence[int], int]]) -> set[str]:
        """Those of `words` that are in a text, before it is cut off: see `replace`."""
        return {word for word, _, _ in self._replace(_beginning(text, _MANY), words)[2]}

    def _replace(
        self, text: str, words: Mapping[str, tuple[Sequence[int], int]]
    ) -> tuple[list[int], list[int], list[tuple[str, int, int]]]:
        """All ids of a text with `words` replaced, the position in the text of each, and the replacements."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        plain, offsets = encoding.ids, encoding.offsets  # each of them is a new list whenever it is asked for
        order = sorted(words, key=lambda word: -len(words[word][0]))
        ids: list[int] = []
        starts: list[int] = []
        found: list[tuple[str, int, int]] = []
        i, room = 0, self.length - 2
        while i < len(plain):
            word = next((w for w in order if plain[i : i + len(words[w][0])] == list(words[w][0])), None)
            count = 1 if word is None else words[word][1]
            if word is not None and len(ids) < room:
                found.append((word, len(ids) + 1, min(count, room - len(ids))))
            ids += [plain[i]] if word is None else [0] * count
            starts += [offsets[i][0]] * count
            i += 1 if word is None else len(words[word][0])
        return ids, starts, found


def _beginning(text: str, length: int) -> str:
    """At most `length` characters from the start of a text. It ends between two words if they are shorter than half of
    that, so the tokens are those of the whole text.
    """
    if length >= len(text):
        return text
    end = max(text.rfind(space, length // 2, length) for space in " \n")
    return text[: length if end < 0 else end]
