"""CLIP's byte-pair tokenizer, on `tokenizers`: text in, 77 ids out.

The vocabulary of OpenAI's CLIP travels with the package; tokenizer files beside a checkpoint win over it.
"""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from .errors import CheckpointError, SDXLWarning

_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_NO_LIMIT = 10**6  # transformers writes 1e30 for "no limit"


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and their ids, and the merges in the order of their rank."""

    ids: Mapping[str, int] = field(repr=False)
    merges: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True)
class TokenizerConfig:
    """The data of a tokenizer. `vocabulary` None is CLIP's own.

    `special` tokens are recognised in the text before it is split into words, `added` ones get ids behind the
    vocabulary. In a folder the pad token is special: with "!" as pad, every "!" of a prompt becomes the pad id.
    """

    bos: str = "<|startoftext|>"
    eos: str = "<|endoftext|>"
    pad: str = "<|endoftext|>"
    length: int = 77
    special: tuple[str, ...] = ("<|startoftext|>", "<|endoftext|>")
    added: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads; CLIP's own vocabulary is left out."""
        data = asdict(replace(self, vocabulary=None))
        if self.vocabulary:
            data["vocabulary"] = {"ids": dict(self.vocabulary.ids), "merges": self.vocabulary.merges}
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TokenizerConfig:
        """The inverse of `to_json`."""
        table = data["vocabulary"]
        vocabulary = table and Vocabulary(table["ids"], tuple((a, b) for a, b in table["merges"]))
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
    packed = resources.files("sdxl").joinpath("data/bpe_simple_vocab_16e6.txt.gz").read_bytes()
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


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}; fetch the file again") from error


def read_folder(folder: Path) -> TokenizerConfig:
    """A tokenizer from vocab.json and merges.txt, or from tokenizer.json alone; the special tokens and the length from
    tokenizer_config.json and special_tokens_map.json, where they are.
    """
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            settings |= {key: value for key, value in _json(folder / name).items() if value is not None}
    names = {}
    for name, default in (("bos", CLIP_L.bos), ("eos", CLIP_L.eos), ("pad", CLIP_L.pad), ("unk", CLIP_L.eos)):
        token = settings.get(f"{name}_token", default)
        names[name] = str(token["content"] if isinstance(token, dict) else token)
    added: dict[str, int] = {}
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        pairs = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
        ids = _json(folder / "vocab.json")
        if (folder / "added_tokens.json").is_file():
            added = _json(folder / "added_tokens.json")
    elif (folder / "tokenizer.json").is_file():
        whole = _json(folder / "tokenizer.json")
        model = whole.get("model", {})
        if model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != "</w>":
            raise CheckpointError(f"{folder / 'tokenizer.json'} is not a CLIP tokenizer (byte-pair encoding with </w>)")
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        ids = model["vocab"]
        added = {token["content"]: token["id"] for token in whole.get("added_tokens", [])}
    else:
        raise CheckpointError(f"{folder} has neither vocab.json and merges.txt nor tokenizer.json; fetch them again")
    if any(len(pair) != 2 for pair in pairs):
        raise CheckpointError(f"the merges in {folder} are not pairs of tokens; fetch the file again")
    new = sorted((token for token in added if token not in ids), key=lambda token: added[token])
    vocabulary: Vocabulary | None = Vocabulary(ids, tuple((a, b) for a, b in pairs))
    return TokenizerConfig(
        bos=names["bos"],
        eos=names["eos"],
        pad=names["pad"],
        length=int(min(settings.get("model_max_length", _NO_LIMIT), _NO_LIMIT)),
        special=tuple(dict.fromkeys(names.values())),
        added=tuple(new),
        vocabulary=None if vocabulary == clip_vocabulary() else vocabulary,
    )


def write_folder(config: TokenizerConfig, folder: Path) -> None:
    """The files that `read_folder` and transformers read."""
    vocabulary = config.vocabulary or clip_vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    names = {"bos_token": config.bos, "eos_token": config.eos, "pad_token": config.pad, "unk_token": config.eos}
    settings = {**names, "model_max_length": config.length, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    merges = ["#version: 0.2", *(f"{a} {b}" for a, b in vocabulary.merges), ""]
    (folder / "vocab.json").write_text(json.dumps(dict(vocabulary.ids), ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(merges), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    if config.added:
        extra = {token: len(vocabulary.ids) + n for n, token in enumerate(config.added)}
        (folder / "added_tokens.json").write_text(json.dumps(extra, ensure_ascii=False), encoding="utf-8")


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
    """Text to ids. `positions` is how many the text encoder has, if fewer than the tokenizer's own length."""

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
            raise CheckpointError(f"the tokenizer's special token {token!r} is not in its vocabulary")
        return int(number)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text: start, at most `length` - 2 tokens, end, pads. Warns of what it cuts."""
        return [self._row(text) for text in texts]

    def _row(self, text: str) -> list[int]:
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids, room = list(encoding.ids), self.length - 2
        if len(ids) > room:
            cut = text[encoding.offsets[room][0] :]
            warnings.warn(
                f"the prompt has {len(ids)} tokens and the text encoder takes {room}; this part was cut: {cut!r}",
                SDXLWarning,
                stacklevel=4,
            )
        ids = [self.bos, *ids[:room], self.eos]
        return ids + [self.pad] * (self.length - len(ids))
