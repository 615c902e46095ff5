"""CLIP's byte-pair tokenizer, on `tokenizers`: text in, 77 ids out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from ..errors import CheckpointError, SDXLWarning
from .vocabulary import TokenizerConfig, Vocabulary, clip_vocabulary

_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


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
