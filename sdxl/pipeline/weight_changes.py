"""Functions of weights that a caller gives, checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from torch import Tensor

from ..errors import ArgumentError, brief
from ..runtime.streamed import Change


@dataclass(frozen=True)
class Both:
    """A change after another."""

    first: Change
    second: Change

    def __call__(self, weight: Tensor) -> Tensor:
        return self.second(self.first(weight))


@dataclass(frozen=True)
class OwnChange:
    """A caller's change of a weight. It gets a copy, since a weight of a file is read again, and gives one in its
    place. Raises `ArgumentError` for anything else.
    """

    name: str
    function: Change

    def __call__(self, weight: Tensor) -> Tensor:
        new = self.function(weight.clone())
        if not isinstance(new, Tensor) or new.shape != weight.shape or not new.is_floating_point():
            given = f"{list(new.shape)} of {new.dtype}" if isinstance(new, Tensor) else brief(new)
            raise ArgumentError(
                f"the change of {self.name} gives {given}; expected a tensor of floating-point numbers, "
                f"{list(weight.shape)}"
            )
        return new.detach().to(weight)


def own_changes(changes: Mapping[str, Change], names: Collection[str]) -> dict[str, OwnChange]:
    """A caller's changes of weights that have these names. Raises `ArgumentError`."""
    if not isinstance(changes, Mapping):
        raise ArgumentError(f"changes is {brief(changes)}; expected functions by the names of weights. Try a dict")
    if unknown := [str(name) for name in changes if name not in names]:
        close = get_close_matches(unknown[0], names, n=1)
        hint = f"perhaps {close[0]} is meant" if close else "names are such as unet.conv_in.weight"
        raise ArgumentError(f"the model has no weight {unknown[0]}; {hint}")
    if wrong := [name for name, change in changes.items() if not callable(change)]:
        kind = type(changes[wrong[0]]).__name__
        raise ArgumentError(f"the change of {wrong[0]} is a {kind}; expected a function from the weight to another")
    return {name: OwnChange(name, change) for name, change in changes.items()}
