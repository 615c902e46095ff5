"""A batch job: reads JSON lines, and groups their images into batches.

Each line is an object with the fields of `Request`, and may name its file with `output`.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, SDXLError, brief, unread_advice
from ..images.output import check_name, same_name
from ..pipeline.aliases import advice
from ..pipeline.argument_groups import SEEDS, SOURCES, TEXTS, WITH_IMAGE
from ..pipeline.hires import read_hires
from ..pipeline.profiles import Place, conventions_of, for_one, is_alone, record_compat
from ..pipeline.request import Request, seeds_of
from ..pipeline.tags import requested_loras
from ..weights.path import AnyPath, expanded
from .claims import Range
from .content import (
    Folders,
    adapter_records,
    by_content,
    control_of,
    embedding_records,
    make_folders,
    references_of,
    with_requested,
)

_DIGITS = 5  # of the number in a file's name, at least


@dataclass(frozen=True)
class WorkItem:
    """What is generated, recorded and claimed as one: an image, or all images of a line that has latents.

    `arguments` are those of `Request`, without a seed if the line gives none. `first` is the number of its first image
    in the job. An item that is `alone` shares its batch with no other; nor does one whose noise would depend on the
    others, by its conventions. `number` is the one that it is claimed by: items that can share a batch have consecutive
    ones.
    """

    line: int
    files: tuple[str, ...]
    arguments: dict[str, Any]
    first: int
    alone: bool = False
    number: int = 0

    def seeds(self, first_seed: int) -> list[int]:
        """The seeds of its images: those of the line, else `first_seed` plus their numbers in the job."""
        given = self.arguments.get("seed")
        return given if given is not None else [first_seed + self.first + n for n in range(len(self.files))]

    @property
    def settings(self) -> str:
        """Equal for items that can share a batch: all arguments except texts and seeds are the same, and so are the
        LoRAs that their prompts ask for.
        """
        own = by_content(self.arguments)
        shared = {name: value for name, value in own.items() if name not in (*TEXTS, *SEEDS)}
        absent = [self.arguments.get(name) is None for name in TEXTS]
        tags = [lora.record() for lora in requested_loras(self.arguments)]
        alone = self.alone or is_alone(conventions_of(self.arguments.get("compat")), _repaints(self.arguments))
        return json.dumps([shared, absent, self.files if alone else None, tags], sort_keys=True)


@dataclass(frozen=True)
class Batch:
    """Items that are generated together: `files[i]` and `lines[i]` belong to image i of `Request(**arguments)`.
    `ranges` are the bytes of `claims` that are locked for it.
    """

    items: tuple[WorkItem, ...]
    arguments: dict[str, Any]
    ranges: tuple[Range, ...] = ()

    @property
    def lines(self) -> tuple[int, ...]:
        """The line of each image."""
        return tuple(item.line for item in self.items for _ in item.files)

    @property
    def files(self) -> tuple[str, ...]:
        """The file name of each image."""
        return tuple(file for item in self.items for file in item.files)

    @property
    def kind(self) -> str:
        """Equal for batches whose images take the same time and memory, as far as their arguments say."""
        own = by_content(self.items[0].arguments)
        return json.dumps(
            {name: value for name, value in own.items() if name not in (*TEXTS, *SEEDS, "loras")}, sort_keys=True
        )


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
        """Batches of at most `size` images with the same settings, in the order of their first lines.

        They depend on the lines alone, not on the images that are finished.
        """
        groups: list[list[WorkItem]] = []
        open_groups: dict[str, list[WorkItem]] = {}
        for item in self.items:
            group = open_groups.get(item.settings)
            if group is None or len(group) >= size:
                group = open_groups[item.settings] = []
                groups.append(group)
            group.append(item)
        return [gather(group, first_seed) for group in groups]

    def key(self, files: Sequence[str], first_seed: int) -> str | None:
        """What identifies the images in these files: another image has another key. None if they are not those of whole
        items.
        """
        items = list(dict.fromkeys(self._numbers.get(file) for file in files))
        batch = gather([self._by_number[number] for number in items if number is not None], first_seed)
        if not batch.items or batch.files != tuple(files):
            return None
        # an older version recorded whole batches under the key of all their files, so there may be several items
        return _hash([self.model, batch.files, by_content(batch.arguments)])

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {file: item.number for item in self.items for file in item.files}

    @cached_property
    def _by_number(self) -> dict[int, WorkItem]:
        return {item.number: item for item in self.items}


def gather(items: Sequence[WorkItem], first_seed: int) -> Batch:
    """The batch of items with the same settings."""
    arguments = dict(items[0].arguments) if items else {}
    if len(items) > 1:
        arguments |= {name: [each.arguments[name] for each in items] for name in TEXTS if name in arguments}
        if "variation_seed" in arguments:
            arguments["variation_seed"] = [seed for each in items for seed in each.arguments["variation_seed"]]
    arguments["seed"] = [seed for each in items for seed in each.seeds(first_seed)]
    return Batch(tuple(items), arguments)


def _numbered(items: Iterable[WorkItem]) -> tuple[WorkItem, ...]:
    """The items, of which those that can share a batch have consecutive numbers."""
    items, groups = list(items), dict[str, list[int]]()
    for place, item in enumerate(items):
        groups.setdefault(item.settings, []).append(place)
    order = [place for group in groups.values() for place in group]
    numbers = {place: number for number, place in enumerate(order)}
    return tuple(replace(item, number=numbers[place]) for place, item in enumerate(items))


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def identity(model: Mapping[str, Any], first_seed: int | None) -> dict[str, Any]:
    """The values beside the lines that decide what the images of a job are, of the given arguments of its model. How
    the model is kept in memory is none. A file that is known by its content belongs here by its hash, not its path.
    Raises `SDXLError` for embeddings that are not found.
    """
    own: dict[str, Any] = {name: value for name, value in model.items() if name != "offload"}
    if own.get("embeddings"):
        own["embeddings"] = embedding_records(own["embeddings"], [])
    return {"seed": first_seed, **own}


def read_job(
    path: AnyPath,
    defaults: Mapping[str, Any],
    model: Mapping[str, Any],
    lora_dir: str | Path | None = None,
    control_dir: str | Path | None = None,
) -> Job:
    """The job in a file of JSON lines, as `parse_job` reads it; paths in the lines are relative to the file. Raises
    `ArgumentError` if the file cannot be read.
    """
    path = expanded(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        advice = unread_advice(error, "give a file of JSON lines in UTF-8")
        raise ArgumentError(f"{path} cannot be read ({error.strerror or error}); {advice}") from error
    return parse_job(decode_lines(data, path), path.parent, defaults, model, lora_dir, control_dir)


def decode_lines(data: bytes, where: object) -> str:
    """The text of JSON lines from `where`, with any system's ends of lines as newlines. Raises `ArgumentError`."""
    plain = data.removeprefix(codecs.BOM_UTF8)
    try:
        return plain.decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        is_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        fault = "it is in UTF-16" if is_16 else f"line {1 + plain.count(10, 0, error.start)} is not in UTF-8"
        raise ArgumentError(f"{where} cannot be read ({fault}); give JSON lines in UTF-8") from error


def parse_job(
    text: str,
    root: AnyPath,
    defaults: Mapping[str, Any],
    model: Mapping[str, Any],
    lora_dir: str | Path | None = None,
    control_dir: str | Path | None = None,
) -> Job:
    """The job in JSON lines, with paths relative to `root`. `defaults` apply to lines that do not override them;
    `model` is the `identity` of the model; names of LoRAs are looked for in `lora_dir`, those of networks of controls,
    references and upscalers in `control_dir`. Errors of lines go to `faults`.
    """
    root, folders = expanded(root), make_folders(lora_dir, control_dir)
    defaults = {**defaults, **adapter_records(defaults, Path(), folders)}
    if defaults.get("hires"):
        defaults = {**defaults, "hires": read_hires(defaults["hires"]).record()}
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
            new = list(_items(number, _arguments(line, defaults, root, folders), f"{number:0{digits}}.png", first))
            new = [replace(item, arguments=with_requested(item.arguments, folders)) for item in new]
            for file in (file for item in new for file in item.files):
                if (other := taken.setdefault(same_name(file), number)) != number:
                    raise ArgumentError(f"output is {file}, as in line {other}; give it another name")
            items += new
            first += sum(len(item.files) for item in new)
        except SDXLError as error:
            faults[number] = error
            first += 1  # correcting this line must not change the seeds of later lines
    contents = [by_content(item.arguments) for item in items]
    content = [own[name] for own in contents for name in ("loras", "control", "reference") if own.get(name)]
    content += [own["hires"] for own in contents if "upscaler_hash" in (own.get("hires") or {})]
    parts = [text, by_content(defaults), dict(model), *([content] if content else [])]
    return Job(_numbered(items), faults, _hash(parts), _hash(dict(model)))


def _arguments(line: str, defaults: Mapping[str, Any], root: Path, folders: Folders) -> dict[str, Any]:
    """A line's arguments, with the checks that need no open images."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"the line is not JSON ({error}); it must be an object like {_EXAMPLE}") from error
    if not isinstance(data, dict):
        raise ArgumentError(f"the line is not an object; it must be one like {_EXAMPLE}")
    known = {each.name for each in fields(Request)} | {"output"}
    if unknown := [name for name in data if name not in known]:
        raise ArgumentError(f"{brief(unknown[0])} is not an argument; {advice(unknown[0], known)}")
    arguments = {name: value for name, value in {**defaults, **data}.items() if value is not None}
    if "prompt" not in arguments:
        raise ArgumentError(f"the line has no prompt; it must be an object like {_EXAMPLE}")
    arguments |= adapter_records(data, root, folders)
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
    return str(root / expanded(value))


def _items(line: int, arguments: dict[str, Any], name: str, first: int) -> Iterator[WorkItem]:
    """The work items of one line."""
    name = _file_name(arguments.pop("output", name))
    later = ("latents", *((*SOURCES, *WITH_IMAGE) if "image" in arguments else ()))
    checked = Request(**{key: value for key, value in arguments.items() if key not in later})
    count, is_one = checked.count, checked.conventions.generators == "batch"
    seeds = None  # the job assigns them
    if checked.seed is not None:
        seeds = list(seeds_of(checked.seed, count, advance=not checked.varies and not is_one))
    if checked.varies and checked.variation_seed is None:
        raise ArgumentError("variation_strength is given without variation_seed; in a job give both")
    others = None if checked.variation_seed is None else seeds_of(checked.variation_seed, count, "variation_seed")
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
        own |= {} if seeds is None else {"seed": [seeds[n]]} | _compat(checked, arguments, n, seeds)
        own |= {} if others is None else {"variation_seed": [others[n]]}
        own |= {"control": control_of(arguments["control"], n, count)} if arguments.get("control") else {}
        own |= {"reference": references_of(arguments["reference"], n, count)} if arguments.get("reference") else {}
        yield WorkItem(line, (file,), arguments | own, first if checked.varies else first + n)


def _compat(request: Request, arguments: Mapping[str, Any], number: int, seeds: Sequence[int]) -> dict[str, Any]:
    """The conventions of an image whose noise depends on others of its line, so that it can be generated alone."""
    image = arguments.get("image")
    sources = len(image) if isinstance(image, list) else 1
    repaints = _repaints(arguments)
    is_one = request.conventions.generators == "batch" and isinstance(request.seed, int)
    alone = for_one(request.conventions, Place(number, len(seeds), sources, repaints), seeds, is_one)
    return {} if alone is None else {"compat": record_compat(alone)}


def _repaints(arguments: Mapping[str, Any]) -> bool:
    return "mask" in arguments or "outpaint" in arguments


def _entry(paths: Any, prompt: int, name: str, request: Request) -> str:
    """The source of one prompt: the only one, or its own."""
    if isinstance(paths, str):
        return paths
    if len(paths) not in (1, len(request.prompts)):
        raise ArgumentError(
            f"{name} has {len(paths)} entries for {len(request.prompts)} prompts; give one for each, or a single one"
        )
    return str(paths[prompt if len(paths) > 1 else 0])


def _file_name(name: Any) -> str:
    """`name`, if an image may have this name in the folder of the results. Raises `ArgumentError`."""
    plain = isinstance(name, str) and Path(name).name == name and "\\" not in name and name.isprintable()
    if not plain or name.startswith(".") or not name.endswith(".png") or len(name.encode()) > 200:
        raise ArgumentError(f"output is {brief(name)}; it must be a plain file name that ends in .png, such as cat.png")
    check_name(name)
    return str(name)
