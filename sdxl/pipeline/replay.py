"""What a record says of an image that its request does not make again, and what a replay does with that."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

from ..adapters.reference import check_contained
from ..errors import ArgumentError, SDXLWarning

_STOPPED, _GENERATOR = "stopped_after", "generator"


def with_notes(parameters: list[dict[str, Any]], stopped_after: int | None, reason: str | None) -> list[dict[str, Any]]:
    """The records of images that are the guess after so many steps, or whose noise no seed makes again for a reason."""
    stopped = {} if stopped_after is None else {_STOPPED: stopped_after}
    if reason is None:
        return [{**each, **stopped} for each in parameters]
    return [
        {**each, **stopped, _GENERATOR: reason, "request": {**each["request"], "seed": None}} for each in parameters
    ]


def check_replay(parameters: Mapping[str, Any], where: object, given: Collection[str]) -> None:
    """Raise `ArgumentError` for the record of an image that cannot be generated again, and warn if it would become
    another one. `where` names the image, `given` are the arguments that are not taken from the record.
    """
    model = parameters["model"]
    if "model" not in {*model, *given}:
        raise ArgumentError(f"{where} was made by networks in memory; give the model")
    if model.get("trainable"):
        _warn(f"{where} was made by a model in training, whose weights may differ from its file's")
    if "reference" not in given:
        check_contained(parameters["request"].get("reference") or (), where)
    if _GENERATOR in parameters and "seed" not in given:
        raise ArgumentError(
            f"{where} cannot be generated again: {parameters[_GENERATOR]}, and no seed stands for that; give a seed "
            "for another image of the same request"
        )
    if _STOPPED in parameters:
        _warn(f"{where} is the guess after {parameters[_STOPPED]} steps, where its call was stopped; all steps run now")


def _warn(why: str) -> None:
    warnings.warn(f"{why}; the result will differ", SDXLWarning, stacklevel=3)
