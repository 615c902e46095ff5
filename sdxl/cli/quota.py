"""As many threads as a container has processors' time for.

Torch takes as many as there are cores. Threads beyond a quota are stopped by turns, and in every layer all the others
wait for them.
"""

from __future__ import annotations

import math
import os
import sys

from ..runtime.control_groups import processors

_THREADS = "OMP_NUM_THREADS"
_RAY = {"ray", "--engine=ray"}  # which gives each of its workers a number, if none is inherited


def limit_threads() -> None:
    """Before torch is imported, which reads the number then: set it, unless the user has."""
    if sys.platform != "linux" or _THREADS in os.environ or _RAY & set(sys.argv):
        return
    quota = processors()
    if quota < len(os.sched_getaffinity(0)):
        os.environ[_THREADS] = str(max(1, math.ceil(quota)))
