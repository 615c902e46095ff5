"""The changes of a model's weights by several adapters: summed in a fixed order, and added once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .lora import LoRA
from .matching import Match, Pair, pairs_by_weight


@dataclass(frozen=True)
class Term:
    """What one adapter, identified by its `hash`, adds to a weight or bias (`leaf`), times a strength."""

    hash: str
    strength: float
    leaf: str
    pair: Pair

    def __call__(self, weight: Tensor) -> Tensor:
        """The change of a weight as its file has it, in float32."""
        module = self.pair.module
        if self.leaf == "bias":
            return self.strength * module.bias_change()
        if self.pair.inputs is None:
            return module.change(weight).mul_(self.strength)
        padded = torch.zeros_like(weight)
        padded[:, : self.pair.inputs] = module.change(weight[:, : self.pair.inputs]) * self.strength
        return padded


@dataclass(frozen=True)
class Sum:
    """A weight with the changes of all adapters, each computed from the file's own weight. Their order does not matter,
    to the bit; two of equal terms are equal. Raises `CheckpointError` if an adapter's file was written to.
    """

    terms: tuple[Term, ...]

    @torch.no_grad()
    def __call__(self, weight: Tensor) -> Tensor:
        first, *others = self.terms
        total = first(weight)
        for term in others:
            total += term(weight)
        for file in {id(term.pair.module.file): term.pair.module.file for term in self.terms}.values():
            file.check_unchanged()
            file.forget()
        return total.add_(weight)


def make_changes(
    active: Iterable[tuple[LoRA, str, Match]], prefixes: Sequence[str]
) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Functions of weights by name, of LoRAs with their hashes and matches; `prefixes` begin the hosts' names."""
    terms: dict[str, list[Term]] = {}
    for lora, hash, matched in active:
        for name, leaf, pair in pairs_by_weight(matched):
            if strength := lora.strength(pair.target.component):
                terms.setdefault(prefixes[matched.host] + name, []).append(Term(hash, strength, leaf, pair))
    return {name: Sum(tuple(sorted(own, key=lambda term: (term.hash, term.strength)))) for name, own in terms.items()}
