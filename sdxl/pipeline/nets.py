"""The networks of controls in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from ..runtime.lazy import Lazy
from ..runtime.placement import Placement
from ..weights.control import OpenedControl
from .loaded import component_bytes, load


class Nets:
    """The networks of controls, each loaded when it is first needed. `prepare` is called with each of them when it is
    loaded.
    """

    def __init__(self, prepare: Callable[[nn.Module], object] | None = None) -> None:
        self._nets: dict[int, tuple[OpenedControl, Lazy[nn.Module]]] = {}
        self._prepare = prepare

    def get(self, opened: OpenedControl, at: Placement) -> Lazy[nn.Module]:
        """The network of an opened control at its place."""
        if id(opened) not in self._nets:
            net = Lazy(lambda: load(opened.component, at, opened.changes))
            if self._prepare is not None:
                net.apply(self._prepare)
            self._nets[id(opened)] = opened, net
        return self._nets[id(opened)][1]

    def all(self) -> list[Lazy[nn.Module]]:
        """All of them."""
        return [net for _, net in self._nets.values()]

    def others(self, wanted: Iterable[OpenedControl]) -> list[Lazy[nn.Module]]:
        """Those that are in memory and not wanted."""
        keys = {id(each) for each in wanted}
        return [net for key, (_, net) in self._nets.items() if key not in keys and net.loaded is not None]

    def missing_bytes(self, wanted: Iterable[OpenedControl], at: Placement) -> int:
        """What the weights of those take that are not in memory yet."""
        if at.streamed:
            return 0
        absent = {id(each): each for each in wanted if self.get(each, at).loaded is None}
        return sum(component_bytes(each.component, at) for each in absent.values())
