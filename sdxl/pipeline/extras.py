"""Networks beside a model's own, which requests name: image encoders and adapters."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from ..runtime.lazy import Lazy


@dataclass(frozen=True)
class Extras:
    """Each is loaded when it is first needed, and kept or released as the model's text encoders are. `results` are what
    they have made of inputs, where the same inputs are to come again.
    """

    networks: dict[str, Lazy[Any]] = field(default_factory=dict)
    results: dict[Any, Any] | None = None

    def get(self, name: str, load: Callable[[], Any]) -> Lazy[Any]:
        """The network of that name."""
        return self.networks.setdefault(name, Lazy(load))

    def empty(self) -> Extras:
        """The same without what is loaded: for other hardware."""
        return Extras(results=None if self.results is None else {})

    def keep(self, names: Collection[str]) -> None:
        """Forget all others."""
        for name in self.networks.keys() - set(names):
            self.networks.pop(name).release()
