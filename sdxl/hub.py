"""Models on the Hugging Face hub: which files are needed, fetched into its cache. A local path passes through."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from . import miniature
from .errors import CheckpointError, HubError
from .tensorfile import read_json, weight_files

_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SMALL = ("model_index.json", "*/config.json", "*/scheduler_config.json", "tokenizer*/*.json", "tokenizer*/*.txt")


def resolve(
    source: str | Path, revision: str | None = None, variant: str | None = None, part: str | None = None
) -> Path:
    """A local file or folder for `source`: a path, `miniature` or `miniature-refiner`, a hub id `owner/name`, or a file
    on the hub `owner/name/file.safetensors`. `part` (`unet` or `vae`) fetches that component alone.

    The cache and HF_HUB_OFFLINE work as `huggingface_hub` documents.
    """
    path, name = local(source), str(source)
    if path.exists():
        return path
    pieces = name.split("/")
    if len(pieces) >= 3 and name.endswith(".safetensors") and not name.startswith((".", "/", "~")):
        return _guard("/".join(pieces[:2]), lambda hub: _one_file(hub, pieces, revision))
    if _ID.fullmatch(name) and path.suffix != ".safetensors":
        return _guard(name, lambda hub: _snapshot(hub, name, revision, variant, part))
    raise CheckpointError(
        f"{name} does not exist; give a .safetensors file, a diffusers folder, a hub id owner/name, or miniature"
    )


def local(source: str | Path) -> Path:
    """The path of `source` on this machine, whether it exists or not; `miniature` is where the package keeps it."""
    path, name = Path(source).expanduser(), str(source)
    if path.exists() or name not in miniature.NAMES:
        return path
    if found := miniature.folder(name):
        return found
    raise CheckpointError(f"the {name} is not in this installation; install the package again, with its weights")


def _guard(name: str, fetch: Any) -> Path:
    """Run `fetch`, with one sentence for each way that the hub can fail."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        return Path(fetch(hub))
    except errors.GatedRepoError as error:
        raise HubError(f"{name} is gated: accept its terms on the hub and log in with `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{name} has no such revision on the hub; check revision=") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(f"{name} is neither a local path nor a model on the hub that you may read") from error
    except errors.EntryNotFoundError as error:  # a LocalEntryNotFoundError too: nothing in the cache, and no network
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise HubError(
                f"{name} is neither a local path nor in the hub's cache, and the hub cannot be reached; "
                "check the network, HF_HUB_OFFLINE and HF_ENDPOINT"
            ) from error
        raise HubError(f"{name} has no such file on the hub: {error}") from error
    except _unreachable() as error:
        reason = str(error).strip().split("\n")[0]
        raise HubError(f"{name} cannot be fetched from the hub ({reason}); check the network and try again") from error


def _one_file(hub: Any, pieces: list[str], revision: str | None) -> str:
    return str(hub.hf_hub_download("/".join(pieces[:2]), "/".join(pieces[2:]), revision=revision))


def _snapshot(hub: Any, name: str, revision: str | None, variant: str | None, part: str | None) -> Path:
    """The folder of a snapshot with the files that are needed and no others; the cached one without a network."""
    try:
        files = [sibling.rfilename for sibling in hub.HfApi().model_info(name, revision=revision).siblings]
    except _unreachable() as error:
        if (answer := getattr(error, "response", None)) is not None and answer.status_code < 500:
            raise
        return _cached(hub, name, revision, part)
    if "model_index.json" in files:
        components = [part] if part else _components(hub, name, revision)
        wanted = [*_SMALL, *(file for component in components for file in _pick(files, component + "/", variant))]
        return _part_folder(Path(hub.snapshot_download(name, revision=revision, allow_patterns=wanted)), part)
    single = [file for file in files if file.endswith(".safetensors")]
    if part and "config.json" in files:
        wanted = ["config.json", *_pick(files, "", variant)]
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=wanted))
    if len(single) != 1:
        raise CheckpointError(
            f"{name} on the hub has no model_index.json and {len(single)} .safetensors files; "
            "name one: owner/name/file.safetensors"
        )
    return Path(hub.hf_hub_download(name, single[0], revision=revision))


def _cached(hub: Any, name: str, revision: str | None, part: str | None) -> Path:
    """What an earlier download left in the cache; whoever opens it says which file is missing."""
    places = {"revision": revision, "local_files_only": True, "allow_patterns": ["model_index.json"]}
    folder = Path(hub.snapshot_download(name, **places))
    single = [path for path in folder.glob("*.safetensors") if not (folder / "model_index.json").exists()]
    return single[0] if len(single) == 1 and not part else _part_folder(folder, part)


def _part_folder(snapshot: Path, part: str | None) -> Path:
    """Where a part lies in a snapshot: in its folder, or at the top of a repository that holds nothing else."""
    return snapshot / part if part and (snapshot / part).is_dir() else snapshot


def _unreachable() -> tuple[type[Exception], ...]:
    """What `huggingface_hub` lets through when the network or the server fails, which differs by version."""
    from huggingface_hub import errors

    return OSError, ValueError, getattr(errors, "HTTPError", OSError)


def _components(hub: Any, name: str, revision: str | None) -> list[str]:
    path = Path(hub.hf_hub_download(name, "model_index.json", revision=revision))
    index = read_json(path)
    names = ("text_encoder", "text_encoder_2", "unet", "vae")
    return [component for component in names if (index.get(component) or [None])[-1] is not None]


def _pick(files: list[str], folder: str, variant: str | None) -> list[str]:
    """The weight files of a component: the variant's, else the plain ones, else the fp16 ones."""
    stem = "model" if folder.startswith("text_encoder") else "diffusion_pytorch_model"
    names = [file[len(folder) :] for file in files if file.startswith(folder)]
    chosen = weight_files(names, stem, variant) or ([] if variant else weight_files(names, stem, "fp16"))
    return [folder + name for name in chosen]
