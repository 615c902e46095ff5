"""Adapter files in the identity of a job: by their content, not by their paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..adapters.embedding import read_embeddings
from ..adapters.lookup import find_file
from ..adapters.lora import read_loras
from ..weights.hashes import file_hash


def lora_records(value: Any, root: Path, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """LoRAs as JSON has them, with the hashes of their files. Paths are relative to `root`; names are looked for in
    `folders`. Raises `SDXLError`.
    """
    records = []
    for lora in read_loras(value):
        beside = root / Path(lora.file).expanduser()
        path = find_file(beside if beside.is_file() else lora.file, folders, "LoRA")
        records.append(lora.record() | {"file": str(path.absolute()), "hash": lora.hash or file_hash(path)})
    return records


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
