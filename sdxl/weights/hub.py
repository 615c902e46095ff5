"""Models on the Hugging Face hub: which files are needed, fetched into its cache. A local path passes through."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, CheckpointError, HubError, SDXLWarning
from . import builtin
from .container import read_json, weight_files
from .download import check_space, receive
from .hub_errors import BUSY, explain, failures, foreign, of_disk, status_of, trouble

_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SMALL = ("model_index.json", "*/config.json", "*/scheduler_config.json", "tokenizer*/*.json", "tokenizer*/*.txt")
_COMPONENTS = ("text_encoder", "text_encoder_2", "unet", "vae")


Check = Callable[[Path], object]


def resolve(
    source: str | Path,
    revision: str | None = None,
    variant: str | None = None,
    part: str | None = None,
    check: Check = lambda folder: None,
) -> Path:
    """A local file or folder for `source`: a path, `miniature` or `miniature-refiner`, a hub id `owner/name`, or a file
    on the hub `owner/name/file.safetensors`. `part` (`unet` or `vae`) fetches that component alone. `check` raises for
    the folder of a whole model that is of no use, when its JSON files are there and none of its weights.

    The cache and HF_HUB_OFFLINE work as `huggingface_hub` documents.
    """
    path, name = local(source), str(source)
    if os.path.exists(path):  # unlike Path.exists, False for every name that cannot be one
        return path
    pieces = name.split("/")
    if len(pieces) >= 3 and name.endswith(".safetensors") and not name.startswith((".", "/", "~")):
        owner = "/".join(pieces[:2])
        return _guard(owner, lambda hub: _one_file(hub, owner, "/".join(pieces[2:]), revision))
    if _ID.fullmatch(name) and path.suffix != ".safetensors" and not name.startswith((".", "~")):
        return _guard(name, lambda hub: _snapshot(hub, name, revision, variant, part, check))
    raise CheckpointError(
        f"{name} does not exist; give a .safetensors file, a diffusers folder, a hub id owner/name, or miniature"
    )


def local(source: str | Path) -> Path:
    """The path of `source` on this machine, whether it exists or not; `miniature` is where the package keeps it."""
    if not isinstance(source, (str, Path)):
        raise ArgumentError(
            f"the model is of type {type(source).__name__}; give a path, a hub id owner/name, or miniature"
        )
    path, name = Path(os.path.expanduser(source)), str(source)
    if name not in builtin.NAMES or path.exists():
        return path
    if found := builtin.folder(name):
        return found
    raise CheckpointError(f"the {name} is not in this installation; install the package again, with its weights")


def _guard(name: str, fetch: Callable[[Any], Path]) -> Path:
    """Run `fetch`, with one sentence for each way that the hub can fail."""
    import huggingface_hub as hub

    for part in ("constants", "file_download", "utils"):
        import_module(f"huggingface_hub.{part}")  # attributes of the package only once they are imported
    try:
        return fetch(hub)
    except failures() as error:
        raise HubError(explain(name, error)) from error


def _one_file(hub: Any, name: str, file: str, revision: str | None) -> Path:
    """One file of a model; the cached one without a network."""
    try:
        commit, files = _listing(hub, name, revision)
    except _SilenceError as error:
        places = {"revision": revision, "local_files_only": True}
        return _kept(f"{name}/{file}", error, lambda: hub.hf_hub_download(name, file, **places))
    if file not in files:
        others = ", ".join(other for other in files if other.endswith(".safetensors")) or "no .safetensors files"
        raise HubError(f"{name} has no such file on the hub: {file}; it has {others}")
    return _fetch(hub, name, commit, revision, files, [file])


def _snapshot(hub: Any, name: str, revision: str | None, variant: str | None, part: str | None, check: Check) -> Path:
    """The folder of a snapshot with the files that are needed and no others; the cached one without a network."""
    try:
        commit, files = _listing(hub, name, revision)
    except _SilenceError as error:
        return _cached(hub, name, revision, variant, part, error)
    if "model_index.json" in files:
        index = _fetch(hub, name, commit, revision, files, ["model_index.json"])
        small = [file for file in files if any(fnmatch(file, pattern) for pattern in _SMALL)]
        components = [part] if part else _components(index)
        weights = [file for component in components for file in _some(name, files, component, variant)]
        needed = ["model_index.json", *small]
        check_space(name, sum(files[file] for file in _missing(hub, name, commit, [*needed, *weights])))
        folder = _fetch(hub, name, commit, commit, files, needed).parent
        if not part:
            check(folder)
        _fetch(hub, name, commit, commit, files, weights)
        return _part_folder(folder, part)
    if part and "config.json" in files:
        return _fetch(hub, name, commit, revision, files, ["config.json", *_pick(files, "", variant)]).parent
    single = [file for file in files if file.endswith(".safetensors")]
    if len(single) != 1:
        raise CheckpointError(
            f"{name} on the hub has no model_index.json and {len(single)} .safetensors files; "
            "name one: owner/name/file.safetensors"
        )
    return _fetch(hub, name, commit, revision, files, single)


def _cached(
    hub: Any, name: str, revision: str | None, variant: str | None, part: str | None, silence: _SilenceError
) -> Path:
    """What an earlier download left in the cache, if its weights are all there."""
    places = {"revision": revision, "local_files_only": True, "allow_patterns": ["model_index.json"]}
    folder = _kept(name, silence, lambda: hub.snapshot_download(name, **places))
    index = folder / "model_index.json"
    single = list(folder.glob("*.safetensors"))
    if not index.exists():
        return single[0] if len(single) == 1 and not part else folder
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    for component in [part] if part else _components(index):
        if not _pick(files, component, variant):
            missing = f"{component}/{_stem(component)}.safetensors"
            raise HubError(f"{name} is not wholly in the hub's cache: {missing} is missing, and {silence}")
    return _part_folder(folder, part)


def _kept(what: str, silence: _SilenceError, find: Callable[[], str]) -> Path:
    """What `find` finds in the cache, where the hub is silent or refuses."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        path = Path(find())
    except LocalEntryNotFoundError as error:
        if silence.refusal is not None:
            raise silence.refusal from error
        raise HubError(f"{what} is neither a local path nor in the hub's cache, and {silence}") from error
    if silence.refusal is not None:
        warnings.warn(f"{what} is taken from the hub's cache: {silence}", SDXLWarning, stacklevel=2)
    return path


def _part_folder(snapshot: Path, part: str | None) -> Path:
    """Where a part lies in a snapshot: in its folder, or at the top of a repository that holds nothing else."""
    return snapshot / part if part and (snapshot / part).is_dir() else snapshot


def _components(index: Path) -> list[str]:
    names = read_json(index)
    entries = {component: names.get(component) for component in _COMPONENTS}
    # what is wrong with an entry is told when the folder is opened
    return [
        component for component, entry in entries.items() if isinstance(entry, list) and entry[-1:] not in ([], [None])
    ]


def _pick(files: Iterable[str], component: str, variant: str | None) -> list[str]:
    """The weight files of a component: the variant's, else the plain ones, else the fp16 ones."""
    folder = component and component + "/"
    names = [file[len(folder) :] for file in files if file.startswith(folder)]
    stem = _stem(component)
    chosen = weight_files(names, stem, variant) or ([] if variant else weight_files(names, stem, "fp16"))
    return [folder + name for name in chosen]


def _some(name: str, files: Iterable[str], component: str, variant: str | None) -> list[str]:
    """The same, or an error if there are none."""
    if chosen := _pick(files, component, variant):
        return chosen
    there = [file for file in files if file.startswith(component + "/") and not file.endswith((".json", ".txt"))]
    raise HubError(
        f"{name} has no {component}/{_stem(component)}.safetensors on the hub, only {', '.join(there) or 'nothing'}; "
        "pickles are not read, get the model in .safetensors files"
    )


def _stem(component: str) -> str:
    return "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"


def _listing(hub: Any, name: str, revision: str | None) -> tuple[str, dict[str, int]]:
    """The commit of a model, and its files with their sizes, 0 where they are not told; a `_SilenceError` where the hub
    does not answer or refuses, or something else answers.
    """
    places = {"revision": revision, "timeout": hub.constants.HF_HUB_ETAG_TIMEOUT}
    try:
        info = hub.HfApi().model_info(name, files_metadata=True, **places)
        return str(info.sha), {sibling.rfilename: sibling.size or 0 for sibling in info.siblings}
    except (*failures(), *foreign()) as error:
        if of_disk(error):
            raise
        refuses = 400 <= status_of(error) < 500 and status_of(error) not in BUSY
        raise _SilenceError(trouble(error), error if refuses else None) from error


def _fetch(
    hub: Any, name: str, commit: str, revision: str | None, sizes: Mapping[str, int], files: Sequence[str]
) -> Path:
    """The first of `files` in the cache, after all of them have been fetched that were not there."""
    missing = _missing(hub, name, commit, files)
    check_space(name, sum(sizes[file] for file in missing))
    for file in missing:
        try:
            receive(hub, name, commit, file)
        except failures() as error:
            raise HubError(explain(name, error, file)) from error
    if commit != revision:
        # the cache notes which commit the revision is, for when there is no network
        hub.hf_hub_download(name, files[0], revision=revision)
    return Path(hub.hf_hub_download(name, files[0], revision=commit))


def _missing(hub: Any, name: str, commit: str, files: Sequence[str]) -> list[str]:
    """Those that are not in the cache."""
    return [f for f in files if not isinstance(hub.try_to_load_from_cache(name, f, revision=commit), str)]


class _SilenceError(Exception):
    """The hub cannot be asked or does not tell; the message says why and what to do. `refusal` is what it refused with,
    such as a model that is gone or a login that has run out."""

    def __init__(self, message: str, refusal: Exception | None) -> None:
        super().__init__(message)
        self.refusal = refusal
