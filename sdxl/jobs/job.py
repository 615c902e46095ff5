"""A batch job: reads a file of JSON lines, and groups its images into batches.

Each line is an object with the fields of `Request`, and may name its file with `output`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, SDXLError, brief
from ..pipeline.aliases import advice
from ..pipeline.request import SOURCES, TEXTS, WITH_IMAGE, Request
from ..pipeline.tags import requested_loras

_DIGITS = 5  # of the number in a file's name, at least


@dataclass(frozen=True)
class WorkItem:
    """The images that always share a batch: one image, or all images of a line that has latents.

    `arguments` are those of `Request`, without a seed if the line gives none. `first` is the number of its first image
    in the job. An item that is `alone` shares its batch with no other.
    """

    line: int
    files: tuple[str, ...]
    arguments: dict[str, Any]
    first: int
    alone: bool = False

    def seeds(self, first_seed: int) -> list[int]:
        """The seeds of its images: those of the line, else `first_seed` plus their numbers in the job."""
        given = self.arguments.get("seed")
        return given if given is not None else [first_seed + self.first + n for n in range(len(self.files))]

    @property
    def key(self) -> str:
        """Equal for items that can share a batch: all arguments except texts and seeds are the same, and the LoRAs that
        their prompts ask for."""
        shared = {name: value for name, value in self.arguments.items() if name not in (*TEXTS, "seed")}
        absent = [self.arguments.get(name) is None for name in TEXTS]
        tags = [lora.record() for lora in requested_loras(self.arguments)]
        return json.dumps([shared, absent, self.line if self.alone else None, tags], sort_keys=True)


@dataclass(frozen=True)
class Batch:
    """Images that are generated together: `files[i]` and `lines[i]` belong to image i of `Request(**arguments)`. Any
    difference between batches shows in `key`.
    """

    number: int
    key: str
    lines: tuple[int, ...]
    files: tuple[str, ...]
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """The images to generate, and the errors of lines (counted from 1) that cannot be generated."""

    items: tuple[WorkItem, ...]
    faults: dict[int, SDXLError]
    fingerprint: str
    model: str

    @property
    def files(self) -> list[str]:
        """The file names of all images."""
        return [file for item in self.items for file in item.files]

    def batches(self, size: int, first_seed: int) -> list[Batch]:
        """Batches of at most `size` images with the same `key`, in the order of their first lines.

        They depend on the file alone, not on the images that are finished.
        """
        groups: list[list[WorkItem]] = []
        open_groups: dict[str, list[WorkItem]] = {}
        for item in self.items:
            group = open_groups.get(item.key)
            if group is None or len(group) >= size:
                group = open_groups[item.key] = []
                groups.append(group)
            group.append(item)
        return [self._batch(number, group, first_seed) for number, group in enumerate(groups)]

    def _batch(self, number: int, group: list[WorkItem], first_seed: int) -> Batch:
        arguments = dict(group[0].arguments)
        if len(group) > 1:
            arguments |= {name: [each.arguments[name] for each in group] for name in TEXTS if name in arguments}
        arguments["seed"] = [seed for each in group for seed in each.seeds(first_seed)]
        lines = tuple(each.line for each in group for _ in each.files)
        files = tuple(file for each in group for file in each.files)
        return Batch(number, _hash([self.model, files, arguments]), lines, files, arguments)


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def read_job(path: Path, defaults: Mapping[str, Any], model: Mapping[str, Any], batch_size: int) -> Job:
    """The job in a file of JSON lines. `defaults` apply to lines that do not override them; paths in the file are
    relative to it. Errors of lines go to `faults`. Raises `ArgumentError` if the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{path} cannot be read ({error}); give a file of JSON lines in UTF-8") from error
    lines = text.split("\n")
    digits = max(_DIGITS, len(str(len(lines))))
    first = 0
    items: list[WorkItem] = []
    faults: dict[int, SDXLError] = {}
    taken: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            new = list(_items(number, _arguments(line, defaults, path.parent), f"{number:0{digits}}.png", first))
            for file in (file for item in new for file in item.files):
                if (other := taken.setdefault(file.casefold(), number)) != number:
                    raise ArgumentError(f"output is {file}, as in line {other}; give it another name")
            items += new
            first += sum(len(item.files) for item in new)
        except SDXLError as error:
            faults[number] = error
            first += 1  # correcting this line must not change the seeds of later lines
    identity = [text, dict(defaults), dict(model), batch_size]
    return Job(tuple(items), faults, _hash(identity), _hash(dict(model)))


def _arguments(line: str, defaults: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A line's arguments, with the checks that need no open images."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"the line is not JSON ({error}); it must be an object like {_EXAMPLE}") from error
    if not isinstance(data, dict):
        raise ArgumentError(f"the line is not an object; it must be one like {_EXAMPLE}")
    known = {each.name for each in fields(Request)} | {"output"}
    if unknown := [name for name in data if name not in known]:
        raise ArgumentError(f"{unknown[0]!r} is not an argument; {advice(unknown[0], known)}")
    arguments = {name: value for name, value in {**defaults, **data}.items() if value is not None}
    if "prompt" not in arguments:
        raise ArgumentError(f"the line has no prompt; it must be an object like {_EXAMPLE}")
    given = [name for name in SOURCES if data.get(name) is not None]
    return arguments | {name: _paths(name, data[name], root) for name in given}


_EXAMPLE = '{"prompt": "a red cat", "seed": 1}'


def _paths(name: str, value: Any, root: Path) -> Any:
    """A path of the job's file, or a list of paths, joined with `root`."""
    if isinstance(value, list) and name != "latents":
        return [_path(name, each, root) for each in value]
    return _path(name, value, root)


def _path(name: str, value: Any, root: Path) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ArgumentError(f"{name} is {brief(value)}; give the path of a file")
    return str(root / os.path.expanduser(value))


def _items(line: int, arguments: dict[str, Any], name: str, first: int) -> Iterator[WorkItem]:
    """The work items of one line."""
    name = _file_name(arguments.pop("output", name))
    later = ("latents", *((*SOURCES, *WITH_IMAGE) if "image" in arguments else ()))
    checked = Request(**{key: value for key, value in arguments.items() if key not in later})
    count = len(checked.prompts) * checked.num_images
    seeds = _seeds(checked, count)
    files = [name] if count == 1 else [f"{name.removesuffix('.png')}-{n + 1}.png" for n in range(count)]
    if "latents" in arguments or str(arguments.get("image")).endswith(".safetensors"):
        yield WorkItem(line, tuple(files), arguments | ({} if seeds is None else {"seed": seeds}), first, alone=True)
        return
    for n, file in enumerate(files):
        prompt = n // checked.num_images
        own: dict[str, Any] = {"num_images": 1} | {
            key: texts[prompt] for key in TEXTS if (texts := checked.texts(key)) is not None
        }
        own |= {key: _entry(arguments[key], prompt, key, checked) for key in ("image", "mask") if key in arguments}
        own |= {} if seeds is None else {"seed": [seeds[n]]}
        yield WorkItem(line, (file,), arguments | own, first + n)


def _seeds(request: Request, count: int) -> list[int] | None:
    """The seeds of a line's images; None if the job assigns them."""
    if request.seed is None:
        return None
    if isinstance(request.seed, int):
        return [request.seed + n for n in range(count)]
    if len(request.seed) != count:
        raise ArgumentError(f"seed has {len(request.seed)} entries for {count} images; give one for each, or one")
    return list(request.seed)


def _entry(paths: Any, prompt: int, name: str, request: Request) -> str:
    """The source of one prompt: the only one, or its own."""
    if isinstance(paths, str):
        return paths
    if len(paths) not in (1, len(request.prompts)):
        raise ArgumentError(f"{name} has {len(paths)} entries for {len(request.prompts)} prompts; give one for each")
    return str(paths[prompt if len(paths) > 1 else 0])


def _file_name(name: Any) -> str:
    """`name`, if an image may have this name in the folder of the results. Raises `ArgumentError`."""
    plain = isinstance(name, str) and Path(name).name == name and "\\" not in name and name.isprintable()
    if not plain or name.startswith(".") or not name.endswith(".png") or len(name.encode()) > 200:
        raise ArgumentError(f"output is {name!r}; it must be a plain file name such as cat.png")
    return str(name)
