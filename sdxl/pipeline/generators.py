"""The `generator` of a call: torch generators of the caller, as diffusers takes them, in place of seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ArgumentError, brief


@dataclass(frozen=True)
class Generators:
    """One generator for each image, or a single one that draws the whole batch at once. `states` are those before the
    call. `seeds` make the same noise again; they are None where `reason` says why nothing does.
    """

    each: tuple[torch.Generator, ...]
    states: tuple[torch.Tensor, ...]
    seeds: list[int] | None
    reason: str | None

    def rewind(self) -> None:
        """Go back to the states before the call, to run it again."""
        for generator, state in zip(self.each, self.states, strict=True):
            generator.set_state(state)


def read_generators(value: Any, count: int) -> Generators:
    """The generators of a call for `count` images. Raises `ArgumentError`."""
    each: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(one, torch.Generator) for one in each):
        raise ArgumentError(f"generator is {brief(value)}; expected a torch.Generator, or a list of one for each image")
    if isinstance(value, (list, tuple)) and len(each) != count:
        raise ArgumentError(f"generator has {len(each)} entries for {count} images; give one for each, or a single one")
    states = tuple(one.get_state() for one in each)
    reason = _reason(each, count)
    seeds = [one.initial_seed() for one in each] if reason is None else None
    return Generators(tuple(each), states, seeds, reason)


def seeded(seeds: Sequence[int]) -> tuple[torch.Generator, ...]:
    """A fresh CPU generator for each seed."""
    return tuple(torch.Generator().manual_seed(seed) for seed in seeds)


def _reason(each: Sequence[torch.Generator], count: int) -> str | None:
    """Why no seeds stand for these generators; None if they do."""
    if len({*map(id, each)}) < count:
        return "one generator drew the noise of several images"
    if any(one.device.type != "cpu" for one in each):
        return f"its noise was drawn on {each[0].device.type}"
    if not all(torch.equal(one.get_state(), seeded([one.initial_seed()])[0].get_state()) for one in each):
        return "its generator had been drawn from before"
    return None
