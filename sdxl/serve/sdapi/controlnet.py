"""The units of AUTOMATIC1111's extension ControlNet as controls and references of ours, and what its clients list."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any

from ...adapters.kind import Name
from ...errors import ArgumentError, brief
from ..given import Given
from ..problems import refuse
from ..service import Service
from ..uploads import Upload, from_base64
from .names import without_hash
from .sizes import read_size

SCRIPT = "controlnet"
_NONE = ("", "None", "none")
_MODES = ("Balanced", "My prompt is more important", "ControlNet is more important")
_RESIZES = ("Just Resize", "Crop and Resize", "Resize and Fill")
_OTHER_RESIZES = {"Resize and Crop": 1, "Scale to Fit (Inner Fit)": 1, "Envelope (Outer Fit)": 2}  # older names
# of a union, in the order of their numbers
_TYPES = ("OpenPose", "Depth", "Soft Edge", "Hard Edge", "Normal Map", "Segmentation", "Tile", "Inpaint")
_STRETCH, _CROP, _FILL = range(3)
_GUESS = 2  # of the modes
_OF_ADAPTERS = re.compile(r"^ip-adapter(?!.*face_?id)|\(IPAdapter\)$", re.IGNORECASE)  # the encoders of IP-Adapters
# their preprocessors: ours, and the defaults of its numbers
MODULES: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "canny": ("canny", (100, 200)),
    "invert (from white bg & black line)": ("invert", ()),
    "invert": ("invert", ()),
    "tile_resample": ("tile", ()),
}
_MODULES = ["none", *MODULES]
_KINDS: tuple[Name, ...] = ("control", "reference")


def is_unit(unit: Any) -> bool:
    """Whether a unit is to act: clients send empty ones for the others."""
    return isinstance(unit, dict) and Given(unit).flag("enabled", True) and unit.get("model") not in (None, *_NONE)


async def read_units(service: Service, script: Any, given: Given) -> dict[str, list[dict[str, Any]]]:
    """The fields `control` and `reference`: a unit with an IP-Adapter is a reference. Raises `ArgumentError`,
    `UnknownError` and `RefusedError`.
    """
    units = script.get("args") if isinstance(script, dict) else None
    if not isinstance(units, list):
        raise ArgumentError(f"alwayson_scripts has {SCRIPT} without args; expected a list of units")
    service.check_count(f"alwayson_scripts.{SCRIPT}.args", units)
    nets, adapters = [await asyncio.to_thread(service.catalog.files, kind) for kind in _KINDS]
    found: dict[str, list[dict[str, Any]]] = {"control": [], "reference": []}
    for unit in map(Given, filter(is_unit, units)):
        name = without_hash(unit.text("model")).removesuffix(".safetensors")
        if name in adapters:
            found["reference"].append({"adapter": name, **await _reference(service, unit, given)})
        else:
            types = nets[name].kind.types if name in nets else 0
            found["control"].append({"net": name, **await _control(service, unit, given), **_type(unit, types)})
    return {name: values for name, values in found.items() if values}


async def _control(service: Service, unit: Given, given: Given) -> dict[str, Any]:
    image, mode = await _image(service, unit, given), _mode(unit)
    preprocess = _preprocess(unit)
    return {
        "image": await _fitted(service, image, _resize(unit), given),
        **_strength(unit),
        "guess": mode == _GUESS,
        **({} if preprocess is None else {"preprocess": preprocess}),
    }


async def _reference(service: Service, unit: Given, given: Given) -> dict[str, Any]:
    module = unit.text("module")
    if module not in _NONE and not _OF_ADAPTERS.search(module):
        raise refuse(422, f"module is {brief(module)}, and the model is an IP-Adapter; expected none", "module")
    if (mode := _mode(unit)) != 0:
        raise refuse(422, f"control_mode is {_MODES[mode]}, and the model is an IP-Adapter; expected {_MODES[0]}")
    return {"image": await _image(service, unit, given), **_strength(unit)}


def _type(unit: Given, types: int) -> dict[str, int]:
    """The type of a union's image, where the unit says it."""
    word = unit.text("union_control_type")
    if not types or word.lower() in ("", "unknown"):
        return {}
    return {"type": _choice(unit, "union_control_type", _TYPES, 0)}


def _strength(unit: Given) -> dict[str, float]:
    names = (("scale", "weight", 1.0), ("start", "guidance_start", 0.0), ("end", "guidance_end", 1.0))
    return {ours: unit.number(theirs, default) for ours, theirs, default in names}


def _mode(unit: Given) -> int:
    mode = _choice(unit, "control_mode", _MODES, 0)
    if mode == 1:
        raise refuse(422, f"control_mode is {_MODES[1]}, which this service cannot do; expected {_MODES[0]}")
    return mode


async def _image(service: Service, unit: Given, given: Given) -> Upload:
    """The unit's image; of img2img, that of the request where the unit has none."""
    value = unit.fields.get("image") or unit.fields.get("input_image")
    masks = [unit.fields.get(name) for name in ("mask", "mask_image")]
    if isinstance(value, dict):
        masks.append(value.get("mask"))
        value = value.get("image")
    if any(masks):
        raise refuse(422, "a unit of controlnet has a mask, and controls here act everywhere; leave it out")
    value = value or next(iter(given.items("init_images")), None)
    if not value:
        raise ArgumentError("a unit of controlnet has no image; give one in base64")
    return await service.upload(from_base64(value, "image"), "image")


async def _fitted(service: Service, image: Upload, mode: int, given: Given) -> Upload:
    """An image of another shape stretched or filled to the size of the result; cut it is by our pipeline."""
    width, height = read_size(service, given)
    if mode == _CROP or width is None or height is None:
        return image
    from .painting import FILL, reshaped

    data = await service.work_on(reshaped, image, (width, height), FILL if mode == _FILL else None)
    return await service.upload(data, "image")


def _preprocess(unit: Given) -> str | None:
    module = unit.text("module")
    if module in _NONE:
        return None
    if module.lower() not in MODULES:
        known = ", ".join(_MODULES)
        raise refuse(422, f"module is {brief(module)}, which this service has not; expected one of {known}", "module")
    ours, defaults = MODULES[module.lower()]
    given = [unit.number(name, -1.0) for name in ("threshold_a", "threshold_b")][: len(defaults)]
    numbers = [own if each < 0 else each for each, own in zip(given, defaults, strict=True)]
    return ":".join([ours, *(f"{each:g}" for each in numbers)])


def _resize(unit: Given) -> int:
    older = _OTHER_RESIZES.get(str(unit.fields.get("resize_mode")))
    return _choice(unit, "resize_mode", _RESIZES, _CROP) if older is None else older


def _choice(unit: Given, name: str, words: tuple[str, ...], default: int) -> int:
    """A choice by its number or its words."""
    value = unit.fields.get(name)
    if value is None:
        return default
    if isinstance(value, str) and not value.isdecimal():
        number = {each.lower(): n for n, each in enumerate(words)}.get(value.lower(), -1)
    else:
        number = unit.whole(name, -1)
    if not 0 <= number < len(words):
        raise ArgumentError(f"{name} is {brief(value)}; expected one of {', '.join(words)}")
    return number


def _models(service: Service) -> list[str]:
    return [name for kind in _KINDS for name in service.catalog.files(kind)]


def _types(service: Service) -> dict[str, Any]:
    everything = {"module_list": _MODULES, "model_list": ["None", *_models(service)], "default_option": "none"}
    return {"control_types": {"All": {**everything, "default_model": "None"}}}


LISTS: Mapping[str, Callable[[Service], Any]] = {
    "version": lambda service: {"version": 3},
    "model_list": lambda service: {"model_list": _models(service)},
    "module_list": lambda service: {"module_list": _MODULES, "module_detail": {}},
    "control_types": _types,
    "settings": lambda service: {"control_net_unit_count": 3},
}
"""The answers of the extension's routes."""
