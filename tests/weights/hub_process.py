"""`sdxl.weights.hub.resolve` in a process of its own, since huggingface_hub reads its environment once.

The process is forked from one that has imported the rest: to import all of it each time takes five times as long.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["sdxl.weights.hub", "filelock", "fsspec", "httpx", "tqdm", "yaml"])


class Resolving:
    """A process that resolves a model's name, with these variables in its environment. It prints the path, or exits
    with the error's class and sentence. `limit` is the most bytes of a file; 0: no limit.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], limit: int = 0) -> None:
        self._folder = tempfile.TemporaryDirectory()
        output = Path(self._folder.name)
        self._process = _FORKS.Process(target=_resolve, args=(arguments, environment, limit, output))
        self._process.start()

    def communicate(self, timeout: float) -> tuple[str, str]:
        """The output and the errors, when it has ended."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, "it goes on"
        output, errors = (Path(self._folder.name, name).read_text() for name in ("out", "err"))
        self._folder.cleanup()
        return output, errors

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode


def _resolve(arguments: Sequence[str], environment: Mapping[str, str], limit: int, output: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT), number)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    assert "huggingface_hub" not in sys.modules

    from sdxl.errors import SDXLError
    from sdxl.weights import hub

    try:
        print(hub.resolve(*arguments), flush=True)
    except SDXLError as error:
        sys.exit(f"{type(error).__name__}: {error}")
