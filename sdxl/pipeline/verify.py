"""Makes a recorded image again and compares it with its file: `generate --from IMAGE --verify`, and `sdxl.verify`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ..adapters.lookup import HASHES, own_folders
from ..errors import ArgumentError
from ..images.image import open_header, open_picture
from ..images.parameters import Parameters
from ..images.record import encode_image
from .aliases import advice
from .argument_groups import SOURCES
from .defaults import recorded_request
from .model_request import RECORDED, ModelRequest
from .pipeline import Pipeline
from .recorded_model import SOURCES as FILES
from .replay import Replay, replay
from .request import Request
from .result import Result

CLOSE = 8
"""The largest difference, of 255, at which images still count as the same: it can hardly be seen."""
_LOSSY = "JPEG"
_NOT_NAMED = "its record names no cause; another processor or number of threads may be one"

# a LoRA, control and reference by the key of its file; and which hash says what lies at a path
_KINDS = {"file": "LoRA", "net": "control", "adapter": "reference"}
_HASHES = HASHES | dict.fromkeys(("image", "mask"), "image_hash")
_HASHED = {"hash": "the file", "image_hash": "the image", "encoder_hash": "the image encoder"}

Verdict = Literal["identical", "close", "different"]


@dataclass(frozen=True)
class Verification:
    """An image at `path` beside the one that its record makes now: the largest `difference` of a value, of 255 (None
    for another size), and the `share` of the values that differ. `reasons` are what is not as it was.
    """

    path: Path
    difference: int | None
    share: float
    reasons: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """ "identical", "close" up to a difference of `CLOSE`, else "different"."""
        if self.difference is None or self.difference > CLOSE:
            return "different"
        return "close" if self.difference else "identical"

    def __str__(self) -> str:
        why = "; ".join(self.reasons)
        if self.verdict == "identical":
            return f"{self.path}: identical" + (f" (although {why})" if why else "")
        because = f" (because {why})" if why else f" ({_NOT_NAMED})"
        if self.verdict == "close":
            return f"{self.path}: the same within {self.difference} of 255{because}"
        how_much = "in size" if self.difference is None else f"by up to {self.difference} of 255"
        return f"{self.path}: differs {how_much}, in {self.share:.1%} of its values{because}"


def verify(path: str | Path, pipe: Pipeline | None = None, **arguments: Any) -> Verification:
    """Make the image of a file again, in memory, and compare them. The model is loaded as the file records it, unless
    `pipe` is one. Further `arguments` of `Request` and `ModelRequest` override the recorded ones; an image that was
    made from another one needs that as `image`, and its `mask`. Raises `SDXLError`.
    """
    request_names, model_names = ([each.name for each in fields(each)] for each in (Request, ModelRequest))
    for name in arguments:
        if name not in {*request_names, *model_names}:
            raise ArgumentError(f"verify has no argument {name!r}; {advice(name, {*request_names, *model_names})}")
    given = {name: value for name, value in arguments.items() if name in request_names}
    model = {name: value for name, value in arguments.items() if name in RECORDED}
    kept = dict.fromkeys(FILES, "") if pipe is not None else {}
    folders = (own_folders(arguments.get(name), name) for name in ("lora_dir", "embedding_dir"))
    again = replay(Path(path), given, model | kept, *folders)
    if pipe is None:
        local = {name: value for name, value in arguments.items() if name in model_names and name not in request_names}
        pipe = Pipeline.from_request(
            ModelRequest(**{"offload": "auto", **again.model, **local}), precision=again.precision
        )
    return compare(Path(path), again, pipe(**again.request, progress=False))


def compare(path: Path, again: Replay, result: Result) -> Verification:
    """The image of a file beside those that were made again: several where it is one of a batch, and its file does not
    say which; then the nearest.
    """
    assert isinstance(result.images, list)
    first, reasons = open_picture(path), [*_reasons(again.recorded, result.parameters[0])]
    images = result.images
    if _is_lossy(path):
        if again.recorded.is_record:
            images = [_as_jpeg(*each) for each in zip(images, result.parameters, strict=True)]
        else:
            reasons.append("a JPEG does not keep exact pixels")
    found = [_compare(path, first, image, reasons) for image in images]
    return min(found, key=lambda each: (256 if each.difference is None else each.difference, each.share))


def _compare(path: Path, first: Image.Image, image: Image.Image, reasons: Sequence[str]) -> Verification:
    if first.size != image.size:
        sizes = [f"{each.width} x {each.height}" for each in (first, image)]
        return Verification(path, None, 1.0, (f"it is {sizes[0]}, and {sizes[1]} now", *reasons))
    values = [np.asarray(each.convert("RGB")).astype(np.int16) for each in (first, image)]
    difference = np.abs(values[0] - values[1])
    return Verification(path, int(difference.max()), float((difference > 0).mean()), tuple(reasons))


def _as_jpeg(image: Image.Image, parameters: Mapping[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(encode_image(image, parameters, _LOSSY))).convert("RGB")


def _is_lossy(path: Path) -> bool:
    with open_header(path) as image:
        return image.format == _LOSSY


def _reasons(recorded: Parameters, now: Mapping[str, Any]) -> Iterator[str]:
    """What is not as it was when the image was made."""
    if recorded.is_record:
        for name, what in (("version", "sdxl"), ("torch", "torch"), ("device", "the device")):
            first, second = recorded.get(name), now.get(name)
            if first is not None and first != second:
                yield f"{what} was {first}, and is {second}"
        yield from _of_request(recorded_request(recorded), now["request"])
    yield from _of_model(recorded, now["model"])
    if "stopped_after" in recorded:
        yield f"it is the guess after {recorded['stopped_after']} steps"
    if recorded.tool != "sdxl":
        yield f"{recorded.tool} computed it with other kernels, in a precision that it does not record"
    for name, (value, _) in recorded.unmapped.items():
        yield f"{name} ({value}) has no counterpart"


def _of_model(recorded: Parameters, now: Mapping[str, Any]) -> Iterator[str]:
    """The files by their hashes, where both are known, else by their names; and the precision."""
    present = Parameters({"model": now, "request": {}})
    for part in FILES:
        (name, hash), (own_name, own_hash) = recorded.file(part), present.file(part)
        if hash and own_hash:
            if not own_hash.startswith(hash):
                yield f"the {part} has the hash {own_hash[:10]}, and had {hash[:10]}"
        elif name != own_name and (recorded.is_record or name):
            yield f"the {part} is {own_name}, and was {name}"
    if recorded.is_record:
        for name in ("dtype", "arithmetic", "int8", "fp8", "variant", "revision", "embeddings"):
            if (first := recorded["model"].get(name)) != (second := now.get(name)):
                yield f"{name} is {second}, and was {first}"


def _of_request(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """The arguments that the record has, and that differ."""
    second = json.loads(json.dumps(second))
    for name, value in first.items():
        now = second.get(name, value)
        if _are_networks(value) and _are_networks(now) and len(value) == len(now):
            for one, other in zip(value, now, strict=True):
                yield from _of_network(one, other)
        elif now != value:
            yield f"{name} is another one" if name in SOURCES else f"{name} is {now}, and was {value}"


def _are_networks(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and not _KINDS.keys().isdisjoint(each) for each in value
    )


def _of_network(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """What differs of a LoRA, control or reference. A path may be another one where the hash is the same; older records
    have fewer hashes.
    """
    path = next(key for key in _KINDS if key in first)
    what = f"{_KINDS[path]} {Path(str(first[path])).name}"
    for key in {**first, **second}:
        one, other = first.get(key, "its default"), second.get(key, "its default")
        hash = _HASHES.get(key)
        is_known = hash is not None and hash in first and hash in second
        if one == other or is_known or (key.endswith("hash") and key not in first):
            continue
        is_hash = key.endswith("hash")
        yield f"{_HASHED[key]} of {what} is another one" if is_hash else f"{key} of {what} is {other}, and was {one}"
