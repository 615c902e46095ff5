"""The warnings of a thread's work, which go to the client that asked for it.

Python's own recording of warnings replaces the filters of all threads for a while. Here only the function that shows a
warning is replaced, for good, and it looks at which thread warns.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import SDXLWarning

_own = threading.local()


def _install() -> None:
    """Show warnings through the collector, each time: again for each job, since others replace this too."""
    warnings.filterwarnings("always", category=SDXLWarning)
    if not getattr(warnings.showwarning, "collects", False):
        warnings.showwarning = _collector(warnings.showwarning)


@contextmanager
def collecting() -> Iterator[list[str]]:
    """The texts of the warnings that this thread causes, each once."""
    _install()
    _own.texts = texts = list[str]()
    try:
        yield texts
    finally:
        del _own.texts


def _collector(show: Any) -> Any:
    def collect(message: Warning | str, category: type[Warning], *more: Any, **others: Any) -> None:
        texts = getattr(_own, "texts", None)
        if texts is None or not issubclass(category, SDXLWarning):
            show(message, category, *more, **others)
        elif (text := str(message)) not in texts:
            texts.append(text)

    collect.collects = True  # type: ignore[attr-defined]
    return collect
