"""Models on the Hugging Face hub: selects the files of a model and downloads them into the cache."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path, PureWindowsPath
from typing import Any

from ..errors import ArgumentError, CheckpointError, HubError, warn
from . import builtin, library
from .download import check_space, receive
from .folder import WEIGHTS, list_some, read_json
from .hub_address import is_address, read_address, resolve_address
from .hub_errors import BUSY, explain, failures, foreign, of_disk, status_of, trouble
from .keymap import COMPONENTS, UNET
from .nearby import hint_of
from .path import expanded
from .weight_files import STEMS, variant_hint, weight_files

_ID = re.compile(r"(?![.~])[\w.-]+/[\w.-]+(?<!\.safetensors)")
_FILE = re.compile(r"(?![.~])[\w.-]+/[\w.-]+/.+\.safetensors")
_SMALL = ("model_index.json", "*/config.json", "*/scheduler_config.json", "tokenizer*/*.json", "tokenizer*/*.txt")
Check = Callable[[Path], object]


def resolve(
    source: str | os.PathLike[str],
    revision: str | None = None,
    variant: str | None = None,
    part: str | None = None,
    check: Check = lambda folder: None,
) -> Path:
    """The local file or folder of `source`: a path, `miniature`, `miniature-refiner`, a name of the library, a hub id
    `owner/name`, a hub file `owner/name/file.safetensors`, or the address of one of these in a browser. `part` (`unet`
    or `vae`) downloads that component alone. `check` gets the folder of a model with its JSON files and may raise,
    before any weights are downloaded.

    The cache and HF_HUB_OFFLINE work as `huggingface_hub` documents. Raises `HubError` and `CheckpointError`.
    """
    path, name = local(source), name_of(source)
    if os.path.exists(path):  # unlike Path.exists, False for every invalid name
        return path
    if is_address(name):
        name, revision = resolve_address(name, revision, part)
    if _FILE.fullmatch(name):
        owner, model, file = name.split("/", 2)
        name = f"{owner}/{model}"
        return _guard(name, source, lambda hub: _one_file(hub, name, file, revision))
    if _ID.fullmatch(name):
        return _guard(name, source, lambda hub: _snapshot(hub, name, revision, variant, part, check))
    raise _absent(name)


def check_source(source: str | os.PathLike[str]) -> None:
    """Raise `CheckpointError` for what is nothing here and can be nothing on the hub, which is not asked."""
    if not os.path.exists(local(source)) and not is_hub_name(name_of(source)):
        raise _absent(name_of(source))


def _absent(name: str) -> CheckpointError:
    advice = hint_of(name) or "give a .safetensors file, a diffusers folder, a hub id owner/name, or miniature"
    return CheckpointError(f"{name} does not exist{library.absence(name)}; {advice}")


def local(source: str | os.PathLike[str]) -> Path:
    """The local path of `source`, which need not exist; for `miniature` the folder in the package, and for the name of
    a model in the library its path there.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise ArgumentError(
            f"the model has type {type(source).__name__}; give a path, a hub id owner/name, or miniature"
        )
    path, name = expanded(source), str(source)
    if os.path.exists(path):
        return path
    if name not in builtin.NAMES:
        return library.find_model(name) or path
    if found := builtin.folder(name):
        return found
    raise CheckpointError(f"the {name} is not in this installation; install the package again, with its weights")


def name_of(source: str | os.PathLike[str]) -> str:
    """A source as it was typed: a path of Windows has other slashes than a name on the hub."""
    return source.as_posix() if isinstance(source, PureWindowsPath) else str(source)


def is_hub_name(name: str) -> bool:
    """Whether a name that is no path here may be one of the hub's: an id, a file there, or an address."""
    return any(each.fullmatch(name) for each in (_ID, _FILE)) or is_address(name)


def on_disk(source: str | os.PathLike[str]) -> Path:
    """As `local`; raises `CheckpointError` for an address, which is of no file here."""
    path = local(source)
    if is_address(name_of(source)) and not os.path.exists(path):
        model = read_address(name_of(source)).model
        raise CheckpointError(
            f"{source} is not on this machine; download it with `hf download {model}` and give its path"
        )
    return path


def _guard(name: str, source: str | os.PathLike[str], download: Callable[[Any], Path]) -> Path:
    """Run `download`; a failure becomes a `HubError` of one sentence, with the path that `source` perhaps means."""
    import huggingface_hub as hub

    for module in ("constants", "file_download", "utils"):
        import_module(f"huggingface_hub.{module}")  # attributes of the package only once they are imported
    faults: tuple[type[Exception], ...] = (HubError, *failures())
    try:
        return download(hub)
    except faults as error:
        parts = [str(error) if isinstance(error, HubError) else explain(name, error), hint_of(source)]
        raise HubError("; ".join(filter(None, parts))) from error


def _one_file(hub: Any, name: str, file: str, revision: str | None) -> Path:
    """One file of a model; without a network, the cached one."""
    try:
        commit, files = _listing(hub, name, revision)
    except _NoAnswerError as error:
        options = {"revision": revision, "local_files_only": True}
        return _from_cache(f"{name}/{file}", error, lambda: hub.hf_hub_download(name, file, **options))
    if file not in files:
        others = list_some([other for other in files if other.endswith(".safetensors")]) or "no .safetensors files"
        raise HubError(f"{name} has no such file on the hub: {file}; it has {others}")
    return _download(hub, name, commit, revision, files, [file])


def _snapshot(
    hub: Any, name: str, revision: str | None, variant: str | None, component: str | None, check: Check
) -> Path:
    """The folder of a snapshot with only the files that are needed; without a network, the cached one."""
    try:
        commit, files = _listing(hub, name, revision)
    except _NoAnswerError as error:
        return _cached(hub, name, revision, variant, component, error)
    if "model_index.json" in files:
        index = _download(hub, name, commit, revision, files, ["model_index.json"])
        small = [file for file in files if any(fnmatch(file, pattern) for pattern in _SMALL)]
        components = [component] if component else _components(index)
        weights = [file for each in components for file in _some(name, files, each, variant)]
        needed = ["model_index.json", *small]
        check_space(name, sum(files[file] for file in _missing(hub, name, commit, [*needed, *weights])))
        folder = _download(hub, name, commit, commit, files, needed).parent
        if not component:
            check(folder)
        _download(hub, name, commit, commit, files, weights)
        return _component_folder(folder, component)
    if component and "config.json" in files:
        return _download(hub, name, commit, revision, files, ["config.json", *_some(name, files, "", variant)]).parent
    single = [file for file in files if file.endswith(".safetensors")]
    if len(single) != 1:
        raise CheckpointError(
            f"{name} on the hub has no model_index.json and {len(single)} .safetensors files"
            f"{': ' * bool(single)}{list_some(single)}; name one: {name}/file.safetensors"
        )
    return _download(hub, name, commit, revision, files, single)


def _cached(
    hub: Any, name: str, revision: str | None, variant: str | None, component: str | None, no_answer: _NoAnswerError
) -> Path:
    """The files that an earlier download left in the cache, if all weights are there."""
    options = {"revision": revision, "local_files_only": True, "allow_patterns": ["model_index.json"]}
    folder = _from_cache(name, no_answer, lambda: hub.snapshot_download(name, **options))
    index = folder / "model_index.json"
    single = list(folder.glob(WEIGHTS))
    if not index.exists():
        return single[0] if len(single) == 1 and not component else folder
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    for each in [component] if component else _components(index):
        if not _pick(files, each, variant):
            missing = f"{each}/{_stem(each)}.safetensors"
            hint = variant_hint([file.removeprefix(f"{each}/") for file in files], _stem(each))
            missing += f" ({hint})" if hint else ""
            raise HubError(f"{name} is incomplete in the hub's cache: {missing} is missing, and {no_answer}")
    return _component_folder(folder, component)


def _from_cache(name: str, no_answer: _NoAnswerError, find: Callable[[], str]) -> Path:
    """The path that `find` finds in the cache, if the hub does not answer or refuses."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        path = Path(find())
    except LocalEntryNotFoundError as error:
        if no_answer.refusal is not None:
            raise no_answer.refusal from error
        raise HubError(f"{name} is neither a local path nor in the hub's cache, and {no_answer}") from error
    if no_answer.refusal is not None:
        warn(f"{name} is taken from the hub's cache: {no_answer}")
    return path


def _component_folder(snapshot: Path, component: str | None) -> Path:
    """The folder of a component in a snapshot: its own, or the top of a repository that holds nothing else."""
    return snapshot / component if component and (snapshot / component).is_dir() else snapshot


def _components(index: Path) -> list[str]:
    names = read_json(index)
    entries = {component: names.get(component) for component in COMPONENTS}
    # opening the folder reports an invalid entry
    return [
        component for component, entry in entries.items() if isinstance(entry, list) and entry[-1:] not in ([], [None])
    ]


def _pick(files: Iterable[str], component: str, variant: str | None) -> list[str]:
    """The weight files of a component: the variant's, else the plain ones, else the fp16 ones."""
    folder = component and component + "/"
    names = [file[len(folder) :] for file in files if file.startswith(folder)]
    return [folder + name for name in weight_files(names, _stem(component), variant)]


def _some(name: str, files: Iterable[str], component: str, variant: str | None) -> list[str]:
    """As `_pick`; raises `HubError` if there are none."""
    if chosen := _pick(files, component, variant):
        return chosen
    folder = component and component + "/"
    inside = [file for file in files if file.startswith(folder)]
    present = [file for file in inside if not file.endswith((".json", ".txt"))]
    hint = variant_hint([file.removeprefix(folder) for file in inside], _stem(component))
    raise HubError(
        f"{name} has no {folder}{_stem(component)}.safetensors on the hub, only {list_some(present) or 'nothing'}; "
        f"{hint or 'pickles are not read, choose a model with .safetensors files'}"
    )


def _stem(component: str) -> str:
    return STEMS[component or UNET]  # a repository of one component holds a UNet or a VAE


def _listing(hub: Any, name: str, revision: str | None) -> tuple[str, dict[str, int]]:
    """The commit of a model, and its files with their sizes (0: unknown). Raises `_NoAnswerError` if the hub does not
    answer or refuses, or if another server answers.
    """
    options = {"revision": revision, "timeout": hub.constants.HF_HUB_ETAG_TIMEOUT}
    try:
        info = hub.HfApi().model_info(name, files_metadata=True, **options)
        return str(info.sha), {sibling.rfilename: sibling.size or 0 for sibling in info.siblings}
    except (*failures(), *foreign()) as error:
        if of_disk(error):
            raise
        refuses = 400 <= status_of(error) < 500 and status_of(error) not in BUSY
        raise _NoAnswerError(trouble(error), error if refuses else None) from error


def _download(
    hub: Any, name: str, commit: str, revision: str | None, sizes: Mapping[str, int], files: Sequence[str]
) -> Path:
    """Download the `files` that the cache lacks; return the path of the first."""
    missing = _missing(hub, name, commit, files)
    check_space(name, sum(sizes[file] for file in missing))
    for file in missing:
        try:
            receive(hub, name, commit, file)
        except failures() as error:
            raise HubError(explain(name, error, file)) from error
    if commit != revision:
        # the cache records the commit of the revision, for use without a network
        hub.hf_hub_download(name, files[0], revision=revision)
    return Path(hub.hf_hub_download(name, files[0], revision=commit))


def _missing(hub: Any, name: str, commit: str, files: Sequence[str]) -> list[str]:
    """Those of `files` that are not in the cache."""
    return [f for f in files if not isinstance(hub.try_to_load_from_cache(name, f, revision=commit), str)]


class _NoAnswerError(Exception):
    """The hub did not answer or refused; the message is the reason and the advice. `refusal` is the hub's error, for
    example of a model that is gone or of an expired login."""

    def __init__(self, message: str, refusal: Exception | None) -> None:
        super().__init__(message)
        self.refusal = refusal
