"""Reads a ControlNet-LLLite: the projections of a UNet that its file is for, in kohya's names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ..errors import CheckpointError, ConfigError
from ..models.control_config import LLLiteConfig, LLLitePlace
from ..models.unet_config import UNetConfig
from .component import Component
from .container import Weights
from .control_kinds import LLLITE_PREFIX, NAME
from .identify import Shapes
from .keymap import Row, module_rows, unet_rows

_PROJECTIONS = tuple(f".{each}.weight" for each in ("self_attn.q", "self_attn.k", "self_attn.v", "cross_attn.q"))
_PIXELS = 8  # per latent along one side


def read_lllite(weights: Weights, like: UNetConfig) -> Component:
    """The component of a ControlNet-LLLite for a UNet, whose keys are not checked. Raises `LookupError`."""
    present = {key.partition(".")[0] for key in weights}
    names = {layer: name for layer, name in _names(like) if name in present}
    if not names:
        key = next(key for key in weights if key.startswith(LLLITE_PREFIX))
        raise ConfigError(f"{key} is for no attention that this model has; give a ControlNet-LLLite for SDXL")
    places = tuple(_place(weights, layer, name) for layer, name in names.items())
    rows = [row for n, place in enumerate(places) for row in _rows(f"places.{n}", names[place.layer], place)]
    return Component(NAME, LLLiteConfig(places), rows, "single", weights)


def check_lllite(config: LLLiteConfig, unet: UNetConfig) -> None:
    """Raise `CheckpointError` unless the widths and tokens are those of the UNet."""
    for place in config.places:
        level = unet.level_of(place.layer)
        for what, own, wanted in (
            ("an input of width {}", place.dim, unet.channels[level]),
            ("a token for {} pixels a side", place.factor, _PIXELS * 2**level),
        ):
            if own != wanted:
                raise CheckpointError(
                    f"the ControlNet-LLLite has {what.format(own)} for {place.layer}, and the model's UNet {wanted}; "
                    "give one for this model"
                )


def _names(unet: UNetConfig) -> Iterator[tuple[str, str]]:
    """The projections that can be changed, by our names and kohya's."""
    for row in unet_rows(unet):
        if row.ours.endswith(_PROJECTIONS):
            name = row.single.removesuffix(".weight").replace(".", "_")
            yield row.ours.removesuffix(".weight"), LLLITE_PREFIX + name


def _place(shapes: Shapes, layer: str, name: str) -> LLLitePlace:
    keys = (f"{name}.conditioning1.{2 * n}.weight" for n in itertools.count())
    encoder = [shapes[key] for key in itertools.takewhile(shapes.__contains__, keys)]
    rank, dim = shapes[f"{name}.down.0.weight"][:2]
    return LLLitePlace(layer, dim, rank, tuple(shape[0] for shape in encoder), tuple(shape[2] for shape in encoder))


def _rows(ours: str, name: str, place: LLLitePlace) -> Iterator[Row]:
    pairs = [(f"encoder.{n}", f"conditioning1.{2 * n}") for n in range(len(place.channels))]
    for own, theirs in (*pairs, *((each, f"{each}.0") for each in ("down", "mid", "up"))):
        yield from module_rows(f"{ours}.{own}", f"{name}.{theirs}", f"{name}.{theirs}")
