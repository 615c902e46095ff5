"""Adapter files in the identity of a job: by their content, not by their paths."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ..adapters.control import read_controls
from ..adapters.embedding import read_embeddings
from ..adapters.lookup import HASHES, find_file, find_named, find_network, own_folders
from ..adapters.lora import read_loras
from ..adapters.reference import read_references
from ..errors import ArgumentError, brief
from ..images.upscalers import is_network
from ..pipeline.hires import read_hires
from ..pipeline.references import References
from ..pipeline.tags import requested_loras
from ..pipeline.upscalers import Upscalers
from ..weights.hashes import file_hash
from ..weights.path import expanded

_NETWORKS = ("loras", "control", "reference")  # arguments that name files


@dataclass(frozen=True)
class Folders:
    """Where names of files are looked for: of LoRAs, and of the networks of controls, references and upscalers."""

    loras: tuple[Path, ...] = ()
    control: tuple[Path, ...] = ()

    @cached_property
    def references(self) -> References:
        """What finds the files of references there, each once."""
        return References(self.control)

    @cached_property
    def upscalers(self) -> Upscalers:
        """What finds the networks of upscalers there."""
        return Upscalers(self.control)

    @cached_property
    def named(self) -> Callable[[str], Path]:
        """What finds the LoRA of a name in a prompt, each once: thousands of lines may name the same."""
        return cache(lambda name: find_named(name, self.loras, "LoRA"))


def make_folders(lora_dir: str | Path | None = None, control_dir: str | Path | None = None) -> Folders:
    """Those of the command line's flags."""
    return Folders(tuple(own_folders(lora_dir, "lora_dir")), tuple(own_folders(control_dir, "control_dir")))


def adapter_records(arguments: Mapping[str, Any], root: Path, folders: Folders) -> dict[str, Any]:
    """The LoRAs, controls, references and a hires fix with a network among arguments as JSON has them, with the hashes
    of their files. Paths are relative to `root`. Raises `SDXLError`.
    """
    read: dict[str, Callable[[Any], Any]] = {
        "loras": lambda value: lora_records(value, root, folders.loras),
        "control": lambda value: control_records(value, root, folders.control),
        "reference": lambda value: [
            folders.references.located(each.at(root)).record() for each in read_references(value)
        ],
    }
    found = {name: records(arguments[name]) for name, records in read.items() if arguments.get(name)}
    hires = read_hires(arguments["hires"]) if arguments.get("hires") else None
    if hires is not None and is_network(hires.upscaler):
        found["hires"] = folders.upscalers.located(hires.at(root)).record()
    return found


def lora_records(value: Any, root: Path, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """LoRAs as JSON has them, with the hashes of their files. Paths are relative to `root`; names are looked for in
    `folders`. Raises `SDXLError`.
    """
    records = []
    for lora in read_loras(value):
        beside = root / expanded(lora.file)
        path = find_file(beside if os.path.isfile(beside) else lora.file, folders, "LoRA")
        records.append(lora.record() | {"file": str(path.absolute()), "hash": lora.hash or file_hash(path)})
    return records


def control_records(value: Any, root: Path, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Controls as JSON has them, with the hashes of their networks' files; a folder is known by its path. Paths are
    relative to `root`; names are looked for in `folders`. Raises `SDXLError`.
    """
    records = []
    for control in read_controls(value):
        beside = root / expanded(control.net)
        path = find_network(beside if os.path.exists(beside) else control.net, folders, "ControlNet")
        images = [_image(each, root) for each in control.images]
        own = {"net": str(path.absolute()), "image": images if len(images) > 1 else images[0]}
        is_file = os.path.isfile(path)
        records.append(control.record() | own | ({"hash": control.hash or file_hash(path)} if is_file else {}))
    return records


def _image(image: Any, root: Path) -> str:
    if not isinstance(image, (str, Path)) or "\0" in str(image):
        raise ArgumentError(f"the image of a control is {brief(image)}; give the path of a file")
    return str((root / expanded(image)).absolute())


def control_of(records: Sequence[Mapping[str, Any]], number: int, count: int) -> list[dict[str, Any]]:
    """The controls of one of `count` images, each with its own image."""
    lists = [each["image"] if isinstance(each["image"], list) else [each["image"]] for each in records]
    return [
        {**each, "image": _entry(images, number, count, f"control {each['net']}")}
        for each, images in zip(records, lists, strict=True)
    ]


def references_of(value: Any, number: int, count: int) -> list[dict[str, Any]]:
    """The records of image `number` of the `count` images of a line. Raises `ArgumentError`."""
    return [
        replace(each, image=_entry(each.images, number, count, f"reference {each.adapter}")).record()
        for each in read_references(value)
    ]


def _entry(entries: Sequence[Any], number: int, count: int, what: str) -> Any:
    """The entry of image `number` of `count`, which the entries go evenly into."""
    if count % len(entries):
        raise ArgumentError(
            f"the image of {what} has {len(entries)} entries for {count} images; give one for each, one for each "
            "prompt, or one"
        )
    return entries[number * len(entries) // count]


def with_requested(arguments: Mapping[str, Any], folders: Folders) -> dict[str, Any]:
    """Arguments of an image with the LoRAs that its prompt asks for beside its others, by name and hash. Raises
    `SDXLError`.
    """
    asked = [lora.record() | {"hash": file_hash(folders.named(str(lora.file)))} for lora in requested_loras(arguments)]
    return dict(arguments) | ({"loras": [*(arguments.get("loras") or ()), *asked]} if asked else {})


def embedding_records(value: Any, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Embeddings by their words and the hashes of their files. Raises `SDXLError`."""
    return [
        {"word": each.word, "hash": [file_hash(find_file(file, folders, "embedding")) for file in each.files]}
        for each in read_embeddings(value)
    ]


def names_networks(arguments: Mapping[str, Any]) -> bool:
    """Whether the arguments of images name files of networks: of LoRAs, controls, references or an upscaler."""
    upscales = "upscaler_hash" in (arguments.get("hires") or {})
    return upscales or any(arguments.get(name) for name in _NETWORKS) or bool(requested_loras(arguments))


def by_content(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of images with the networks of LoRAs, controls, references and upscalers named by the hashes of their
    files alone.
    """
    named: dict[str, Any] = {
        name: [_by_content(each) for each in arguments[name]] for name in _NETWORKS if arguments.get(name)
    }
    if arguments.get("hires"):
        named["hires"] = _by_content(arguments["hires"])
    return dict(arguments) | named


def _by_content(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in record if HASHES.get(key) not in record}
