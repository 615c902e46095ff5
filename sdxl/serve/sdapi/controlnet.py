"""The units of AUTOMATIC1111's extension ControlNet as controls of ours, and what its clients list."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...errors import ArgumentError, brief
from ..given import Given
from ..problems import refuse
from ..service import Service
from ..uploads import Upload, from_base64
from .sizes import read_size

SCRIPT = "controlnet"
_HASH = re.compile(r" \[[0-9a-fA-F]{4,64}\]$")
_NONE = ("", "None", "none")
_MODES = ("Balanced", "My prompt is more important", "ControlNet is more important")
_RESIZES = ("Just Resize", "Crop and Resize", "Resize and Fill")
_OTHER_RESIZES = {"Resize and Crop": 1, "Scale to Fit (Inner Fit)": 1, "Envelope (Outer Fit)": 2}
_STRETCH, _CROP, _FILL = range(3)
# their preprocessors: ours, and the defaults of its numbers
MODULES: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "canny": ("canny", (100, 200)),
    "invert (from white bg & black line)": ("invert", ()),
    "invert": ("invert", ()),
    "tile_resample": ("tile", ()),
}


def is_unit(unit: Any) -> bool:
    """Whether a unit is to act: clients send empty ones for the others."""
    return isinstance(unit, dict) and Given(unit).flag("enabled", True) and unit.get("model") not in (None, *_NONE)


async def read_units(service: Service, script: Any, given: Given) -> list[dict[str, Any]]:
    """The field `control`. Raises `ArgumentError`, `UnknownError` and `RefusedError`."""
    units = script.get("args") if isinstance(script, dict) else None
    if not isinstance(units, list):
        raise ArgumentError(f"alwayson_scripts has {SCRIPT} without args; expected a list of units")
    return [await _control(service, Given(unit), given) for unit in units if is_unit(unit)]


async def _control(service: Service, unit: Given, given: Given) -> dict[str, Any]:
    image = await _image(service, unit, given)
    if unit.fields.get("mask") or unit.fields.get("mask_image"):
        raise refuse(422, "a unit of controlnet has a mask, and controls here act everywhere; leave it out")
    mode = _choice(unit, "control_mode", _MODES, 0)
    if mode == 1:
        raise refuse(422, f"control_mode is {_MODES[1]}, which this service cannot do; expected {_MODES[0]}")
    control = {
        "net": _HASH.sub("", unit.text("model")),
        "image": await _fitted(service, image, _choice(unit, "resize_mode", _RESIZES, _CROP), given),
        "scale": unit.number("weight", 1.0),
        "start": unit.number("guidance_start", 0.0),
        "end": unit.number("guidance_end", 1.0),
        "guess": mode == 2,
        "preprocess": _preprocess(unit),
    }
    return {name: value for name, value in control.items() if value is not None}


async def _image(service: Service, unit: Given, given: Given) -> Upload:
    """The unit's image; of img2img, that of the request where the unit has none."""
    value = unit.fields.get("image") or unit.fields.get("input_image")
    if isinstance(value, dict):
        if value.get("mask"):
            raise refuse(422, "a unit of controlnet has a mask, and controls here act everywhere; leave it out")
        value = value.get("image")
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
        known = ", ".join(["none", *MODULES])
        raise refuse(422, f"module is {brief(module)}, which this service has not; expected one of {known}", "module")
    ours, defaults = MODULES[module.lower()]
    given = [unit.number(name, -1.0) for name in ("threshold_a", "threshold_b")][: len(defaults)]
    numbers = [own if each < 0 else each for each, own in zip(given, defaults, strict=True)]
    return ":".join([ours, *(f"{each:g}" for each in numbers)])


def _choice(unit: Given, name: str, words: tuple[str, ...], default: int) -> int:
    """A choice by its number or its words."""
    value = unit.fields.get(name)
    if value is None:
        return default
    if isinstance(value, str) and not value.isdecimal():
        known = {each.lower(): n for n, each in enumerate(words)} | {w.lower(): n for w, n in _OTHER_RESIZES.items()}
        number = known.get(value.lower(), -1)
    else:
        number = unit.whole(name, -1)
    if not 0 <= number < len(words):
        raise ArgumentError(f"{name} is {brief(value)}; expected one of {', '.join(words)}")
    return number


def lists(service: Service) -> dict[str, Any]:
    """The answers of the extension's routes."""
    models, modules = list(service.catalog.controls()), ["none", *MODULES]
    everything = {"module_list": modules, "model_list": ["None", *models], "default_option": "none"}
    return {
        "version": {"version": 3},
        "model_list": {"model_list": models},
        "module_list": {"module_list": modules, "module_detail": {}},
        "control_types": {"control_types": {"All": {**everything, "default_model": "None"}}},
        "settings": {"control_net_unit_count": 3},
    }
