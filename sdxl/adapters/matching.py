"""Which model an adapter belongs to, and which of its weights it changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import CheckpointError, warn
from ..weights.component import Component
from ..weights.keymap import UNET, summarize
from .adapter import Adapter, Module
from .family import context_family, foreign, stated
from .names import NameTable, Target, names_text


@dataclass(frozen=True)
class Host:
    """A model that adapters can change: its names, and the shapes of its weights."""

    table: NameTable
    shapes: Mapping[str, tuple[int, ...]]

    def shape(self, target: Target, leaf: str = "weight") -> tuple[int, ...] | None:
        """The shape of a module's weight or bias; None if it has none."""
        return self.shapes.get(target.weight(leaf))


def make_host(components: Mapping[str, Component]) -> Host:
    """The model of a checkpoint's components."""
    shapes = {
        f"{name}.{own}": shape
        for name, component in components.items()
        for own, shape in component.own_shapes().items()
    }
    return Host(NameTable({name: component.rows for name, component in components.items()}), shapes)


@dataclass(frozen=True)
class Pair:
    """A module of a file and what it changes. `inputs`: the first input channels, where the file has fewer than the
    weight (conv_in of an inpainting model).
    """

    module: Module
    target: Target
    inputs: int | None = None


@dataclass(frozen=True)
class Match:
    """The pairs of an adapter with one of the hosts; `unknown` are keys that mean nothing there."""

    adapter: Adapter
    host: int
    pairs: tuple[Pair, ...]
    unknown: tuple[str, ...]


def match(adapter: Adapter, hosts: Sequence[Host]) -> Match:
    """The host that a file is for, with its pairs. Keys without a meaning are a warning. Raises `CheckpointError`
    where it is for none.
    """
    if found := foreign(adapter.file.shapes):
        raise _refusal(adapter, *found)
    attempts = [_Attempt(adapter, host) for host in hosts]
    best = max(attempts, key=lambda each: each.score)
    if not best.is_right:
        raise best.refusal()
    best.check_biases()
    unknown = (*adapter.unknown, *(key for module in best.strangers for key in module.roles.values()))
    if unknown:
        warn(
            f"{adapter.path}: {len(unknown)} of {len(adapter.file.shapes)} tensors mean nothing for this model and are "
            f"ignored: {summarize(unknown)}"
        )
    return Match(adapter, attempts.index(best), tuple(best.pairs), unknown)


class _Attempt:
    """A file held against one host."""

    def __init__(self, adapter: Adapter, host: Host) -> None:
        self.adapter, self.host = adapter, host
        self.pairs: list[Pair] = []
        self.strangers: list[Module] = []
        self.misfits: list[tuple[Module, str]] = []
        for module in adapter.modules:
            self._place(module)

    def _place(self, module: Module) -> None:
        target = self.host.table.find(module.name)
        shape = None if target is None else self.host.shape(target)
        if target is None or shape is None:
            self.strangers.append(module)
            return
        reason = module.fits(shape)
        narrow = (*shape[:1], shape[1] // 2, *shape[2:]) if target.path == "conv_in" else None
        if reason is None:
            self.pairs.append(Pair(module, target))
        elif narrow is not None and module.fits(narrow) is None:
            self.pairs.append(Pair(module, target, narrow[1]))
        else:
            self.misfits.append((module, reason))

    @property
    def is_right(self) -> bool:
        """Whether the file is for this host: all that is known fits, and not the text encoders alone."""
        return bool(self.pairs) and not self.misfits and self._has_unet

    @property
    def _has_unet(self) -> bool:
        is_of_text = all(names_text(module.name) for module in self.adapter.modules)
        return is_of_text or any(pair.target.component == UNET for pair in self.pairs)

    @property
    def score(self) -> tuple[bool, int]:
        """Larger for the host that the file is rather for."""
        return self.is_right, len(self.pairs) - len(self.misfits)

    def refusal(self) -> CheckpointError:
        """Why the file is for none of the hosts."""
        if found := context_family(self.adapter.file.shapes, self.host.shapes):
            return _refusal(self.adapter, *found)
        if self.misfits:
            module, reason = self.misfits[0]
            many = f" ({len(self.misfits)} such modules)" if len(self.misfits) > 1 else ""
            return CheckpointError(
                f"{self.adapter.path} does not fit the model: {module.name} has {reason}{many}; give a LoRA that was "
                "made for it"
            )
        name, evidence = stated(self.adapter.file.metadata) or ("no LoRA of this model", "")
        known = len(self.pairs)
        evidence = evidence or (
            f"{known} of its {len(self.adapter.modules)} modules are known, and none of the UNet"
            if known
            else f"none of its {len(self.adapter.modules)} modules is known, such as {self.strangers[0].name}"
        )
        return _refusal(self.adapter, name, evidence)

    def check_biases(self) -> None:
        """Raise `CheckpointError` for a change of a bias that a layer lacks, and for two modules of one layer."""
        seen: dict[Target, Module] = {}
        for pair in self.pairs:
            if other := seen.get(pair.target):
                raise CheckpointError(
                    f"{self.adapter.path}: {other.name} and {pair.module.name} name the same layer; remove one"
                )
            seen[pair.target] = pair.module
            bias, shape = pair.module.bias_shape, self.host.shape(pair.target, "bias")
            if bias is not None and bias != shape:
                has = "has no bias" if shape is None else f"has one of shape {list(shape)}"
                raise CheckpointError(
                    f"{self.adapter.path}: {pair.module.name} changes a bias of shape {list(bias)}, and the layer "
                    f"{has}; it cannot be used with this model"
                )


def _refusal(adapter: Adapter, name: str, evidence: str) -> CheckpointError:
    return CheckpointError(f"{adapter.path} is {name} ({evidence}); give a LoRA of the model's family")


def pairs_by_weight(matched: Match) -> Iterator[tuple[str, str, Pair]]:
    """(name of a weight, its leaf, the pair that changes it)."""
    for pair in matched.pairs:
        if pair.module.formula is not None:
            yield pair.target.weight("weight"), "weight", pair
        if pair.module.bias_shape is not None:
            yield pair.target.weight("bias"), "bias", pair
