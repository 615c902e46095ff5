"""The number of threads under the quota of a container."""

from __future__ import annotations

import math
import os
import sys

import pytest

from sdxl.cli import quota

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux'")


@pytest.mark.parametrize(
    ("given", "processors", "cores", "command", "expected"),
    [
        (None, math.inf, 64, "generate", None),
        (None, 4.0, 64, "generate", "4"),
        (None, 2.5, 64, "serve", "3"),
        (None, 0.2, 64, "serve", "1"),
        (None, 4.0, 4, "generate", None),
        (None, 8.0, 4, "generate", None),  # taskset or a cpuset allows fewer, which torch counts itself
        ("16", 4.0, 64, "generate", "16"),
        (None, 4.0, 64, "--engine=ray", None),
    ],
)
def test_threads_under_a_quota(
    given: str | None,
    processors: float,
    cores: int,
    command: str,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {} if given is None else {"OMP_NUM_THREADS": given})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(sys, "argv", ["sdxl", command])
    monkeypatch.setattr(quota, "processors", lambda: processors)
    quota.limit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == expected
