"""Something that is loaded when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from .locks import Lock

T = TypeVar("T")


class Lazy(Generic[T]):
    """A value that is loaded when it is first asked for. `release` gives the memory back until the next time."""

    def __init__(self, load: Callable[[], T]) -> None:
        self._load = load
        self._lock = Lock()  # it is loaded once, however many threads ask
        self._loaded: T | None = None
        self._changes: list[Callable[[T], object]] = []

    def __call__(self) -> T:
        """The value itself."""
        with self._lock:
            if self._loaded is None:
                loaded = self._load()
                for change in self._changes:
                    change(loaded)
                self._loaded = loaded
            return self._loaded

    def apply(self, change: Callable[[T], object]) -> None:
        """Call `change` with the value, now or when it is loaded, and whenever it is loaded again."""
        with self._lock:
            self._changes.append(change)
            if self._loaded is not None:
                change(self._loaded)

    @property
    def loaded(self) -> T | None:
        """The value if it is loaded."""
        return self._loaded

    def adopt(self, value: T) -> None:
        """Take a value in place of loading it."""
        with self._lock:
            self._loaded = value

    def release(self) -> None:
        """Forget the value; others who hold it keep it alive."""
        with self._lock:
            self._loaded = None
