"""What the operating system says of memory: Linux, Windows and macOS. Imports no torch."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from contextlib import suppress
from typing import Any

from .control_groups import memory_rooms, table


def free() -> float:
    """Bytes that this process may still take; infinity where the system does not say. macOS compresses and moves what
    other programs hold, and has no such number: there it is what the machine has beside this process.
    """
    if sys.platform == "win32":
        return _windows_free()
    if sys.platform == "darwin":
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") - resident())
    available = [1024.0 * int(value.split()[0]) for value in table("/proc/meminfo", "MemAvailable:")]
    return min([math.inf, *available, *memory_rooms()])


def resident() -> int:
    """Bytes that this process holds; 0 where the system does not say."""
    if sys.platform == "win32":
        return _windows_resident()
    if sys.platform == "darwin":
        return _mac_footprint()
    return sum(int(value.split()[0]) * 1024 for value in table("/proc/self/status", "VmRSS:"))


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of sysinfoapi.h."""

    _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32)] + [
        (name, ctypes.c_uint64)
        for name in ("total", "free", "total_pages", "free_pages", "total_virtual", "free_virtual", "free_extended")
    ]


class _ProcessMemory(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of psapi.h."""

    _fields_ = [("length", ctypes.c_uint32), ("faults", ctypes.c_uint32)] + [
        (name, ctypes.c_size_t)
        for name in ("peak", "resident", "peak_paged", "paged", "peak_other", "other", "pages", "peak_pages")
    ]


def _windows_free() -> float:
    """Free memory, and no more than the system promises to back: it refuses what its paging file could not hold."""
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    is_known = _kernel().GlobalMemoryStatusEx(ctypes.byref(status))
    return min(status.free, status.free_pages) if is_known else math.inf


def _windows_resident() -> int:
    counters, this = _ProcessMemory(length=ctypes.sizeof(_ProcessMemory)), ctypes.c_void_p(-1)
    is_known = _kernel().K32GetProcessMemoryInfo(this, ctypes.byref(counters), ctypes.c_uint32(counters.length))
    return int(counters.resident) if is_known else 0


def _kernel() -> Any:
    return getattr(ctypes, "windll").kernel32  # noqa: B009 - only Windows has it


_FOOTPRINT = 9  # of the numbers of rusage_info_v0 in sys/resource.h, in 64 bits: what the system counts of a process


def _mac_footprint() -> int:
    numbers = (ctypes.c_uint64 * 64)()
    with suppress(OSError, AttributeError):
        if ctypes.CDLL(None).proc_pid_rusage(os.getpid(), 0, ctypes.byref(numbers)) == 0:
            return int(numbers[_FOOTPRINT])
    return 0
