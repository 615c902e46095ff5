"""Image encoders: opens a file or folder of one, and finds the one that an IP-Adapter needs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, HubError, naming
from ..models.vision_config import IPAdapterConfig, VisionConfig
from ..weights import hub
from ..weights.checkpoint import open_files
from ..weights.component import Component, check_components
from ..weights.container import TensorFile, Weights
from ..weights.diffusers_config import read_vision
from ..weights.folder import entries, read_json
from ..weights.hashes import file_hash, model_hash
from ..weights.path import expanded
from ..weights.reference_rows import VISUAL, infer_vision, is_vision, vision_rows
from ..weights.weight_files import weight_files
from .lookup import adapter_files, find_by_hash

NAME = "image_encoder"
_STEMS = ("model", "open_clip_model")  # of transformers, and of OpenCLIP's own folders
# beside an image encoder in files of a whole CLIP, and constants
_OTHERS = re.compile(
    r"vision_model\.embeddings\.position_ids|logit_scale|logit_bias|text_model\..*|text_projection(\.weight)?"
    r"|transformer\..*|token_embedding\..*|positional_embedding|ln_final\..*|attn_mask"
)
_CONFIGS = ("clip_vision_model", "clip")


@dataclass(frozen=True)
class Wanted:
    """What an IP-Adapter needs of an image encoder: hidden states, or a projected embedding, of a width. `name` is the
    published one, and `file` where it is on the hub.
    """

    width: int
    hidden: bool
    name: str = "an image encoder of another family"
    file: str | None = None

    def fits(self, config: VisionConfig) -> bool:
        """Whether an encoder gives that."""
        return self.width == (config.dim if self.hidden else config.projection_dim)

    def __str__(self) -> str:
        where = "" if self.file is None else f" (on the hub {self.file})"
        return f"{self.name} with {'hidden states' if self.hidden else 'embeddings'} of width {self.width}{where}"


_H = ("CLIP ViT-H/14", "h94/IP-Adapter/models/image_encoder/model.safetensors")
_BIG_G = ("CLIP ViT-bigG/14", "h94/IP-Adapter/sdxl_models/image_encoder/model.safetensors")
_PUBLISHED = {(1280, True): _H, (1024, False): _H, (1664, True): _BIG_G, (1280, False): _BIG_G}


def published_name(config: VisionConfig) -> str:
    """The published encoder that one of its widths is."""
    hidden, projected = ((config.dim, True), (config.projection_dim, False))
    first, second = (_PUBLISHED.get(each, ("",))[0] for each in (hidden, projected))
    return first if first and first == second else f"CLIP of {config.dim} channels and {config.layers} layers"


def wanted(config: IPAdapterConfig) -> Wanted:
    """The image encoder that an adapter needs."""
    key = config.image_dim, config.is_plus
    return Wanted(*key, *_PUBLISHED.get(key, ()))


def open_image_encoder(path: Path) -> Component:
    """Open an image encoder: a folder as transformers writes it, one file of it, or a file in OpenCLIP's names
    (`visual.*`), with or without CLIP's text encoder. Raises `CheckpointError`.
    """
    component = read_image_encoder(path)
    check_components([component])
    return component


def read_image_encoder(path: Path) -> Component:
    """As `open_image_encoder`, without checking the keys of the files."""
    return encoder_of_files(_files(path) if os.path.isdir(path) else [TensorFile(path)], path)


def encoder_of_files(files: list[TensorFile], path: Path) -> Component:
    """The image encoder of opened files, of the folder or file `path`. Its keys are not checked."""
    weights = Weights(files)
    if not is_vision(weights):
        raise CheckpointError(f"{path} is no image encoder of CLIP; give the file or folder of one")
    layout = "single" if any(key.startswith(VISUAL) for key in weights) else "folder"
    with naming(path):
        config = _stated(files[0].path.parent / "config.json", layout) or infer_vision(weights, layout)
    others = frozenset(key for key in weights if _OTHERS.fullmatch(key))
    return Component(NAME, config, list(vision_rows(config)), layout, weights, others=others)


def _files(folder: Path) -> list[TensorFile]:
    names = entries(folder)
    stem = next((each for each in _STEMS if weight_files(names, each, None)), _STEMS[0])
    return open_files(folder, stem, None)


def _stated(path: Path, layout: str) -> VisionConfig | None:
    """The config beside a file in transformers' names."""
    if layout != "folder" or not os.path.isfile(path):
        return None
    data = read_json(path)
    return read_vision(data, str(path)) if data.get("model_type") in _CONFIGS else None


def encoder_hash(encoder: Component) -> str:
    """The sha256 of an image encoder's file, or of several files together. Raises `CheckpointError`."""
    first, *others = (file.path for file in encoder.weights.files)
    return model_hash(first.parent, [path.name for path in (first, *others)]) if others else file_hash(first)


def find_image_encoder(
    adapter: Path,
    need: Wanted,
    given: str | Path | None = None,
    folders: Sequence[Path] = (),
    hash: str | None = None,
) -> tuple[Component, str]:
    """The image encoder that an adapter needs, and its hash: the `given` one, else one beside it, in the `folders`, or
    on the hub. Raises `CheckpointError` for one that does not fit or has another hash than `hash`, and `HubError`.
    """
    fitting = ((encoder, encoder_hash(encoder)) for encoder in _fitting(adapter, need, given, folders, hash))
    encoder, own = first = next(fitting)
    if hash is None or own.startswith(hash.lower()):
        return first
    for other in fitting:
        if other[1].startswith(hash.lower()):
            return other
    raise CheckpointError(
        f"{encoder.weights.where} is not the image encoder that is asked for: its hash begins with {own[:12]}, "
        f"expected {hash[:12]}; give the right one as encoder=, or leave encoder_hash out"
    )


def _fitting(
    adapter: Path, need: Wanted, given: str | Path | None, folders: Sequence[Path], hash: str | None
) -> Iterator[Component]:
    """The image encoders that may be meant: one or more."""
    if given is not None:
        yield _checked(open_image_encoder(_path(given, folders, hash)), adapter, need)
        return
    is_found = False
    for path in _candidates(adapter, folders):
        try:
            encoder = open_image_encoder(path)
        except CheckpointError:  # another file, or a damaged one, for which the error below says what is needed
            continue
        if need.fits(_config(encoder)):
            is_found = True
            yield encoder
    if not is_found:
        known = None if hash is None else find_by_hash(hash, folders)
        yield _from_hub(adapter, need) if known is None else _checked(open_image_encoder(known), adapter, need)


def _from_hub(adapter: Path, need: Wanted) -> Component:
    advice = "give it as encoder="
    if need.file is None:
        raise CheckpointError(f"{adapter} needs {need}, and none is beside it in {NAME}/; {advice}")
    try:
        path = hub.resolve(need.file)
    except (HubError, CheckpointError) as error:
        raise type(error)(f"{adapter} needs {need}, and none is beside it in {NAME}/: {error}; or {advice}") from error
    return _checked(open_image_encoder(path), adapter, need)


def _candidates(adapter: Path, folders: Sequence[Path]) -> Iterator[Path]:
    """Where encoders may lie: beside an adapter as on the hub, and in folders."""
    beside = (adapter.parent / NAME, adapter.parent.parent / "models" / NAME)
    yield from (path for path in beside if os.path.isdir(path))
    for path in adapter_files(folders):
        try:
            if is_vision(TensorFile(path).shapes):
                yield path
        except CheckpointError:
            continue


def _path(given: str | Path, folders: Sequence[Path], hash: str | None) -> Path:
    """The file or folder of a name; where it is gone, a file with the hash."""
    path = expanded(given)
    named = [folder / name for folder in folders for name in (str(given), f"{given}.safetensors")]
    found = next((each for each in (path, *named) if os.path.exists(each)), None)
    if found is None and hash is not None:
        found = find_by_hash(hash, folders)
    if found is None and not hub.is_hub_name(str(given)):
        raise CheckpointError(
            f"the image encoder {given} does not exist; give the path of its file or folder, a name in the folder of "
            "networks, or leave encoder out"
        )
    return hub.resolve(str(given)) if found is None else found


def _checked(encoder: Component, adapter: Path, need: Wanted) -> Component:
    config = _config(encoder)
    if not need.fits(config):
        has = config.dim if need.hidden else config.projection_dim
        raise CheckpointError(
            f"{encoder.weights.where} is not the image encoder of {adapter}: it gives "
            f"{'hidden states' if need.hidden else 'embeddings'} of width {has}; the adapter needs {need}"
        )
    return encoder


def _config(encoder: Component) -> VisionConfig:
    assert isinstance(encoder.config, VisionConfig)
    return encoder.config


def is_encoder_folder(path: Path) -> bool:
    """Whether a folder is that of an image encoder, by its config.json."""
    file = path / "config.json"
    return os.path.isfile(file) and read_json(file).get("model_type") in _CONFIGS
