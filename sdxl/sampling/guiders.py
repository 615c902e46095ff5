"""Guidance beside CFG, as values of a request: APG and PAG. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from ..errors import ArgumentError, brief, checked_number


@dataclass(frozen=True)
class APG:
    """Adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416): CFG whose direction, the difference of the
    clean guesses with and without the prompt, loses most of what oversaturates. It costs nothing beside CFG.

    `eta` is what remains of the part along the guess itself, `norm_threshold` the longest that the difference may be
    (0: no limit), `momentum` the share of earlier steps' differences. The defaults are the paper's for SDXL.
    """

    name: ClassVar[str] = "apg"
    eta: float = 0.0
    norm_threshold: float = 15.0
    momentum: float = -0.5

    def __post_init__(self) -> None:
        _check_numbers(self, {"eta": (0, 1), "norm_threshold": (0, 1e6), "momentum": (-1, 1)})


@dataclass(frozen=True)
class PAG:
    """Perturbed-attention guidance (Ahn et al. 2024, arXiv 2403.17377): `scale` times the difference between the
    prediction and one whose self-attention sees each place alone is added. It costs a third pass beside CFG's two, a
    second one where guidance is off.

    `layers` are names of the UNet's parts whose self-attentions are perturbed: mid, down.1, up.0.attn.2, ...
    """

    name: ClassVar[str] = "pag"
    scale: float = 3.0
    layers: tuple[str, ...] = ("mid",)

    def __post_init__(self) -> None:
        _check_numbers(self, {"scale": (0, 1000)})
        layers = self.layers.split("+") if isinstance(self.layers, str) else self.layers
        is_list = isinstance(layers, Sequence) and len(layers) > 0
        if not is_list or not all(isinstance(layer, str) and layer for layer in layers):
            raise ArgumentError(f"layers of pag is {brief(self.layers)}; expected names such as mid or up.0. Try mid")
        object.__setattr__(self, "layers", tuple(layers))

    def takes(self, block: str) -> bool:
        """Whether the transformer block of that name is perturbed."""
        return any(f"{block}.".startswith(f"{layer}.") for layer in self.layers)


GUIDERS: dict[str, type[APG] | type[PAG]] = {each.name: each for each in (APG, PAG)}
NamedGuider = APG | PAG


def _check_numbers(guider: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    for name, (least, most) in ranges.items():
        value = checked_number(f"{name} of {guider.name}", getattr(guider, name), least, most)
        object.__setattr__(guider, name, value)


def read_guider(value: Any) -> NamedGuider:
    """A guider from text such as `apg,eta=0.2`, an object of JSON with its name, or itself. Raises `ArgumentError`."""
    if isinstance(value, (APG, PAG)):
        return value
    if isinstance(value, str):
        name, *parts = value.split(",")
        return _make(name, dict(_read_part(part.strip(), value) for part in parts), value)
    if isinstance(value, Mapping):
        given = {**value}
        return _make(given.pop("name", None), given, value)
    raise ArgumentError(f"guider is {brief(value)}; expected sdxl.APG(...), sdxl.PAG(...) or a text such as apg")


def _read_part(part: str, text: str) -> tuple[str, Any]:
    name, sign, value = part.partition("=")
    if not sign:
        raise ArgumentError(f"guider is {brief(text)}; expected NAME=VALUE in place of {brief(part)}. Try apg,eta=0")
    try:
        return name, float(value)
    except ValueError:
        return name, value


def _make(name: Any, given: Mapping[str, Any], value: Any) -> NamedGuider:
    if not isinstance(name, str) or name not in GUIDERS:
        raise ArgumentError(f"guider is {brief(value)}; its name must be one of {', '.join(GUIDERS)}")
    known = [each.name for each in fields(GUIDERS[name])]
    if unknown := [each for each in given if each not in known]:
        raise ArgumentError(f"guider {name} has no {brief(unknown[0])}; its values are {', '.join(known)}")
    return GUIDERS[name](**given)


def record_guider(guider: NamedGuider) -> dict[str, Any]:
    """As JSON has it."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(guider).items()}
    return {"name": guider.name, **values}
