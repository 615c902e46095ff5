"""Networks beside a model's own, which requests name: those of controls, image encoders and IP-Adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..runtime.lazy import Lazy
from ..runtime.placement import Placement
from ..runtime.streamed import Change
from ..weights.component import Component
from .network_loading import load


@dataclass(frozen=True, eq=False)
class Extra:
    """A network in opened files, whose weights have `changes`: one object for each that is opened. Where it
    `runs_once` for an image it lies where the text encoders do, else beside the UNet.
    """

    component: Component
    changes: Mapping[str, Change] = field(default_factory=dict)
    runs_once: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        """Of its files."""
        return tuple(file.path for file in self.component.weights.files)


class Extras:
    """The networks of requests, each loaded when it is first needed, and kept or released as the model's own are. Those
    of earlier requests stay as long as there is room. `results` are what networks that run once have made of inputs:
    those of the last request, and of earlier ones up to `most_results`.
    """

    def __init__(self, most_results: int = 0) -> None:
        self.most_results = most_results
        self.results: dict[Any, Any] = {}
        self._networks: dict[Extra, Lazy[nn.Module]] = {}
        self._changes: list[Callable[[nn.Module], object]] = []

    def get(self, extra: Extra, at: Placement) -> Lazy[nn.Module]:
        """The network at its place."""
        if extra not in self._networks:
            network = Lazy(partial(load, extra.component, at, extra.changes))
            for change in self._changes if not extra.runs_once else ():
                network.apply(change)
            self._networks[extra] = network
        return self._networks[extra]

    def apply(self, change: Callable[[nn.Module], object]) -> None:
        """Call `change` with each network beside the UNet, now or when it is loaded."""
        self._changes.append(change)
        for extra, network in self._networks.items():
            if not extra.runs_once:
                network.apply(change)

    def all(self) -> list[Lazy[nn.Module]]:
        """All of them."""
        return list(self._networks.values())

    def idle(self, wanted: Iterable[Extra]) -> list[Lazy[nn.Module]]:
        """Those that are in memory and not wanted."""
        kept = set(wanted)
        return [each for extra, each in self._networks.items() if extra not in kept and each.loaded is not None]

    def missing(self, wanted: Iterable[Extra]) -> list[Extra]:
        """Those that are wanted and not in memory, each once."""
        known = self._networks
        return [each for each in dict.fromkeys(wanted) if each not in known or known[each].loaded is None]

    def forget_changed(self, wanted: Iterable[Extra]) -> list[Lazy[nn.Module]]:
        """Forget the networks whose files have changed, and were opened again for what is wanted: these networks."""
        kept = set(wanted)
        paths = {each.paths for each in kept}
        old = [each for each in self._networks if each not in kept and each.paths in paths]
        return [self._networks.pop(each) for each in old]

    def emptied(self) -> Extras:
        """Others without what is loaded: for other hardware."""
        return Extras(self.most_results)
