"""The limits of Linux' control groups, such as a container's: versions 1 and 2. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = "/sys/fs/cgroup"
# the files of each version: the limits, what is taken, and the lines of caches that the system gives up first
_MEMORY = {
    2: (("memory.max", "memory.high"), "memory.current", ("inactive_file ", "active_file ")),
    1: (("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file ", "total_active_file ")),
}


def memory_rooms() -> Iterator[float]:
    """The bytes that the memory limits of this process' groups leave, each."""
    for version, folder in _folders("memory"):
        limits, usage, caches = _MEMORY[version]
        taken = sum(int(value) for value in table(folder / usage, ""))
        cached = sum(int(value) for cache in caches for value in table(folder / "memory.stat", cache))
        for name in limits:
            yield from (int(limit) - taken + cached for limit in table(folder / name, "") if limit != "max")


def processors() -> float:
    """How many processors' time this process may take; infinity without a quota."""
    quotas = [math.inf]
    for version, folder in _folders("cpu"):
        names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        parts = [part for name in names for line in table(folder / name, "") for part in line.split()]
        with suppress(ValueError, ZeroDivisionError):  # max and -1 are the words for none; a sandbox may have others
            quota, period = map(int, parts)
            quotas += [quota / period] * (quota > 0)
    return min(quotas)


def _folders(controller: str) -> Iterator[tuple[int, Path]]:
    """The folder of this process' group for a controller and those above it, each with the version. In a container the
    name may be the host's, which has no folder there; the container's own group is the root then.
    """
    for line in table("/proc/self/cgroup", ""):
        _, controllers, name = line.split(":", 2) if line.count(":") > 1 else ("", "none", "")
        if controllers and controller not in controllers.split(","):
            continue
        root = Path(_ROOT, controller) if controllers else Path(_ROOT)
        own = root / name.lstrip("/")
        for folder in (own, *own.parents):
            yield 1 if controllers else 2, folder
            if folder == root:
                break


def table(path: str | Path, start: str) -> Iterator[str]:
    """The rest of the lines of a system file that begin with `start`; nothing if there is no such file."""
    with suppress(OSError):
        for line in Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            if line.startswith(start):
                yield line.removeprefix(start)
