"""tcmalloc in place of the system's allocator, where it is installed.

The system has to clear fresh memory, which glibc asks for at every large feature map and gives back after it. tcmalloc
keeps it: docs/benchmarks has the numbers. An allocator can be put into a process only at its start. So the command line
restarts itself before it imports torch, as the same process with the same arguments. Linux only.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

SYSTEM = "the system's"
OFF = "SDXL_NO_TCMALLOC"
_NAME = "_SDXL_PROCESS_NAME"  # set while a process restarts: the name that `ps` shows
_LIBRARIES = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")
_OTHERS = ("inspect", "convert", "tokens", "preprocess", "help", "-h", "--help", "--version")  # that generate nothing
_GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # torch has an allocator of its own for their memory


def use_tcmalloc() -> None:
    """Restart this process with tcmalloc, once, where that can be done and helps."""
    if sys.platform == "linux" and not _has_restarted() and _is_possible() and (library := _find()) is not None:
        _restart(library)


def _restart(library: str) -> None:
    with open("/proc/self/comm", encoding="utf-8") as file:
        name = file.read().strip()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))  # an interrupt waits for `_has_restarted`
    with suppress(OSError):  # of a system that forbids it
        os.execve(sys.executable, sys.orig_argv, os.environ | {"LD_PRELOAD": library, _NAME: name})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))


def _has_restarted() -> bool:
    """Whether this process has restarted; then undo what processes of its own would inherit, and let interrupts come
    again.
    """
    if (name := os.environ.pop(_NAME, None)) is None:
        return False
    del os.environ["LD_PRELOAD"]
    with suppress(OSError), open("/proc/self/comm", "w", encoding="utf-8") as file:
        file.write(name)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
    return True


def in_use() -> str:
    """The allocator of this process, by the libraries in its memory."""
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8") as file:
        loaded = file.read()
        return next((name for name in ("tcmalloc", "jemalloc", "mimalloc") if name in loaded), SYSTEM)
    return SYSTEM


def _is_possible() -> bool:
    if os.environ.get(OFF) or os.environ.get("LD_PRELOAD"):
        return False
    given = sys.argv[1:]
    if not given or given[0] in _OTHERS or {"-h", "--help"} & set(given) or any(map(os.path.exists, _GPUS)):
        return False
    is_own = os.path.isfile(sys.argv[0]) and not getattr(sys, "frozen", False)  # neither -c nor a program on stdin
    is_alone = len(os.listdir("/proc/self/task")) == 1 and sys.gettrace() is None  # no debugger and no profiler
    return bool(sys.executable) and is_own and is_alone and "torch" not in sys.modules


def _find() -> str | None:
    """tcmalloc as the system's loader finds it, or beside Python itself, where conda puts it."""
    folders = [*filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")), os.path.join(sys.prefix, "lib")]
    installed = b""
    with suppress(OSError), open("/etc/ld.so.cache", "rb") as file:
        installed = file.read()
    for library in _LIBRARIES:
        paths = [path for folder in folders if os.path.isfile(path := os.path.join(folder, library))]
        if f"{library}\0".encode() in installed:
            paths.append(library)
        for path in paths:
            if _can_load(path):
                return path
    return None


def _can_load(path: str) -> bool:
    """Whether a library is one for this process. (The loader would print an error at the start.)"""
    import ctypes

    try:
        ctypes.CDLL(path)
    except OSError:
        return False
    return True
