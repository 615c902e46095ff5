"""Limits of containers, in trees of files as Linux shows them there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from sdxl.runtime import control_groups, memory

CPU = torch.device("cpu")
FREE = 5000 * 1024
UNLIMITED = "9223372036854771712\n"  # version 1's word for it
STAT_1 = "inactive_file 7\nactive_file 7\ntotal_inactive_file 200000\ntotal_active_file 100000\n"
STAT_2 = "anon 5\ninactive_file 300000\n"

Tree = Callable[[str, Mapping[str, Mapping[str, str]]], None]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Makes a system whose process is in the groups of /proc/self/cgroup, with files in folders of /sys/fs/cgroup."""

    def inside(*path: Any) -> Path:
        whole = Path(*path)
        return whole if tmp_path in whole.parents else tmp_path / str(whole).lstrip("/")

    def make(groups: str, folders: Mapping[str, Mapping[str, str]]) -> None:
        (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
        (tmp_path / "proc/self/cgroup").write_text(groups)
        for folder, files in folders.items():
            (own := tmp_path / "sys/fs/cgroup" / folder).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (own / name).write_text(text)

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(control_groups, "Path", inside)
    return make


def version_1(limit: str = "2000000\n") -> dict[str, str]:
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": "1500000\n", "memory.stat": STAT_1}


def version_2(**limits: str) -> dict[str, str]:
    return {"memory.current": "1500000\n", "memory.stat": STAT_2} | {f"memory.{each}": limits[each] for each in limits}


@pytest.mark.parametrize(
    ("groups", "folders", "free"),
    [
        ("0::/job\n", {}, FREE),
        ("0::/job\n", {"job": version_2(max="2000000\n")}, 800_000),
        ("0::/job\n", {"job": version_2(max="max\n", high="max\n")}, FREE),
        ("0::/job\n", {"job": version_2(max="max\n"), ".": version_2(max="1900000\n")}, 700_000),
        ("0::/job\n", {"job": version_2(max="max\n", high="1800000\n")}, 600_000),  # beyond it all is slowed down
        ("0::/../other\n", {".": version_2(max="2000000\n")}, 800_000),  # of another namespace
        ("9:cpu,memory:/job\n0::/\n", {"memory/job": version_1()}, 800_000),
        ("9:memory:/job\n0::/\n", {"memory/job": version_1(UNLIMITED)}, FREE),
        ("9:memory:/slice/job\n", {"memory/slice/job": version_1(UNLIMITED), "memory/slice": version_1()}, 800_000),
        ("9:memory:/docker/0f3a\n8:cpu:/\n", {"memory": version_1()}, 800_000),  # the host's name for it
        ("9:cpu:/job\n", {"memory/job": version_1()}, FREE),
        ("", {"memory": version_1()}, FREE),
        ("\n0\n0::/job\n", {"job": version_2(max="2000000\n")}, 800_000),
    ],
)
def test_memory_of_a_container(tree: Tree, groups: str, folders: dict[str, dict[str, str]], free: float) -> None:
    tree(groups, folders)
    assert memory.available(CPU) == free


@pytest.mark.parametrize(
    ("groups", "folders", "count"),
    [
        ("0::/job\n", {}, math.inf),
        ("0::/job\n", {"job": {"cpu.max": "max 100000\n"}}, math.inf),
        ("0::/job\n", {"job": {"cpu.max": "250000 100000\n"}, ".": {"cpu.max": "400000 100000\n"}}, 2.5),
        ("0::/job\n", {"job": {"cpu.max": "max 100000\n"}, ".": {"cpu.max": "50000 100000\n"}}, 0.5),
        ("3:cpu,cpuacct:/\n", {"cpu": {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}}, math.inf),
        ("3:cpu,cpuacct:/x\n", {"cpu": {"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"}}, 3.0),
        ("3:cpuset:/\n", {"cpu": {"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"}}, math.inf),
        ("none\n\n3:cpu:/\n", {"cpu": {"cpu.cfs_quota_us": "0\n", "cpu.cfs_period_us": "0\n"}}, math.inf),
        ("0::/\n", {".": {"cpu.max": "unlimited 100000\n"}}, math.inf),  # of a sandbox that is not Linux
    ],
)
def test_processors_of_a_container(tree: Tree, groups: str, folders: dict[str, dict[str, str]], count: float) -> None:
    tree(groups, folders)
    assert control_groups.processors() == count
