"""Adapter files in the identity of a job: by their content, not by their paths."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..adapters.embedding import read_embeddings
from ..adapters.lookup import find_file, find_named
from ..adapters.lora import read_loras
from ..pipeline.tags import requested_loras
from ..weights.hashes import file_hash


def lora_records(value: Any, root: Path, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """LoRAs as JSON has them, with the hashes of their files. Paths are relative to `root`; names are looked for in
    `folders`. Raises `SDXLError`.
    """
    records = []
    for lora in read_loras(value):
        beside = root / os.path.expanduser(lora.file)
        path = find_file(beside if os.path.isfile(beside) else lora.file, folders, "LoRA")
        records.append(lora.record() | {"file": str(path.absolute()), "hash": lora.hash or file_hash(path)})
    return records


def with_requested(arguments: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
    """Arguments of an image with the LoRAs that its prompt asks for beside its others, by name and hash. Raises
    `SDXLError`.
    """
    asked = [
        lora.record() | {"hash": file_hash(find_named(str(lora.file), folders, "LoRA"))}
        for lora in requested_loras(arguments)
    ]
    return dict(arguments) | ({"loras": [*(arguments.get("loras") or ()), *asked]} if asked else {})


def embedding_records(value: Any, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Embeddings by their words and the hashes of their files. Raises `SDXLError`."""
    return [
        {"word": each.word, "hash": [file_hash(find_file(file, folders, "embedding")) for file in each.files]}
        for each in read_embeddings(value)
    ]


def by_content(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of images with each LoRA named by the hash of its file alone."""
    loras = [{name: each[name] for name in each if name != "file"} for each in arguments.get("loras") or ()]
    return dict(arguments) | ({"loras": loras} if loras else {})
