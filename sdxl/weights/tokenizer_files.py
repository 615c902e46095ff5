"""Reads and writes the tokenizer files of a diffusers folder: vocab.json, merges.txt, tokenizer.json, ..."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, brief, naming
from ..text.vocabulary import CLIP_L, TokenizerConfig, Vocabulary, clip_vocabulary
from .folder import entries, read_json, read_text

_NO_LIMIT = 10**6  # transformers writes 1e30 for "no limit"


def read_folder(folder: Path) -> TokenizerConfig:
    """A tokenizer from vocab.json and merges.txt, or from tokenizer.json alone. Special tokens and length are from
    tokenizer_config.json and special_tokens_map.json, if present.
    """
    settings: dict[str, Any] = {}
    names = [name for name in entries(folder) if os.path.isfile(folder / name)] if os.path.isdir(folder) else []
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if name in names:
            settings |= {key: value for key, value in read_json(folder / name).items() if value is not None}
    if "vocab.json" in names and "merges.txt" in names:
        vocabulary, added = _read_tables(folder)
    elif "tokenizer.json" in names:
        vocabulary, added = _read_whole(folder / "tokenizer.json")
    else:
        raise CheckpointError(f"{folder} has neither vocab.json and merges.txt nor tokenizer.json; download them again")
    with naming(folder):
        own = None if vocabulary == clip_vocabulary() else vocabulary
        if own:
            own.check()
        bos, eos, pad, unk = (_special(settings, name) for name in ("bos", "eos", "pad", "unk"))
        return TokenizerConfig(
            bos=bos,
            eos=eos,
            pad=pad,
            length=_limit(settings.get("model_max_length", _NO_LIMIT)),
            special=tuple(dict.fromkeys((bos, eos, pad, unk))),
            added=_added_tokens(vocabulary.ids, added),
            vocabulary=own,
        )


def _read_tables(folder: Path) -> tuple[Vocabulary, Mapping[Any, Any]]:
    """The vocabulary of vocab.json and merges.txt, and the ids of added_tokens.json."""
    lines = read_text(folder / "merges.txt").split("\n")
    pairs = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    added = read_json(folder / "added_tokens.json") if os.path.isfile(folder / "added_tokens.json") else {}
    return Vocabulary(read_json(folder / "vocab.json"), _pairs(pairs, folder / "merges.txt")), added


def _read_whole(path: Path) -> tuple[Vocabulary, Mapping[Any, Any]]:
    """The vocabulary of a tokenizer.json, and the ids of its added tokens."""
    whole = read_json(path)
    model = whole.get("model", {})
    if (
        not isinstance(model, dict)
        or model.get("type", "BPE") != "BPE"
        or model.get("end_of_word_suffix") != "</w>"
        or not isinstance(model.get("merges"), list)
    ):
        raise CheckpointError(f"{path} is not a CLIP tokenizer (byte-pair encoding with </w>); download SDXL's")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    try:
        added = {token["content"]: token["id"] for token in whole.get("added_tokens", [])}
    except (TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} has added_tokens without content or id ({error!r}); download it again"
        ) from error
    return Vocabulary(model.get("vocab", {}), _pairs(pairs, path)), added


def _pairs(merges: Sequence[Any], path: Path) -> tuple[tuple[Any, Any], ...]:
    if any(not isinstance(merge, list) or len(merge) != 2 for merge in merges):
        raise CheckpointError(f"the merges in {path} are not pairs of tokens; download the file again")
    return tuple((a, b) for a, b in merges)


def _special(settings: Mapping[str, Any], name: str) -> str:
    """A special token of the settings, where it is a string or an object."""
    token = settings.get(f"{name}_token", CLIP_L.bos if name == "bos" else CLIP_L.eos)
    token = token.get("content") if isinstance(token, dict) else token
    if not isinstance(token, str):
        raise CheckpointError(f"the {name}_token is {brief(token)}; it must be a string")
    return token


def _limit(length: Any) -> int:
    """The largest number of tokens in the settings."""
    if isinstance(length, bool) or not isinstance(length, (int, float)) or length != length:
        raise CheckpointError(f"model_max_length is {brief(length)}; it must be a number")
    return int(min(max(length, 0), _NO_LIMIT))


def _added_tokens(ids: Mapping[str, int], added: Mapping[Any, Any]) -> tuple[str, ...]:
    """The added tokens that the vocabulary lacks, in the order of their ids, which must follow its own."""
    new = [(number, token) for token, number in added.items() if token not in ids]
    expected = range(len(ids), len(ids) + len(new))
    if not all(type(number) is int for number, _ in new) or sorted(number for number, _ in new) != list(expected):
        raise CheckpointError(
            f"the ids of the added tokens, {brief(new)}, do not follow those of the vocabulary; download them again"
        )
    return tuple(token for _, token in sorted(new))


def write_folder(config: TokenizerConfig, folder: Path) -> None:
    """The files that `read_folder` and transformers read."""
    vocabulary = config.vocabulary or clip_vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    names = {"bos_token": config.bos, "eos_token": config.eos, "pad_token": config.pad, "unk_token": config.eos}
    settings = {**names, "model_max_length": config.length, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    merges = ["#version: 0.2", *(f"{a} {b}" for a, b in vocabulary.merges), ""]
    files = {
        "vocab.json": json.dumps(dict(vocabulary.ids), ensure_ascii=False),
        "merges.txt": "\n".join(merges),
        "special_tokens_map.json": json.dumps(names, indent=2),
        "tokenizer_config.json": json.dumps(settings, indent=2),
    }
    if config.added:
        extra = {token: len(vocabulary.ids) + n for n, token in enumerate(config.added)}
        files["added_tokens.json"] = json.dumps(extra, ensure_ascii=False)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
