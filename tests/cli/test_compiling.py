"""Where `--compile` has torch keep what it has compiled."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._inductor.runtime.runtime_utils import cache_dir

from sdxl.cli.compiling import compile_pipeline

NAMES = ("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_FX_GRAPH_CACHE")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a user who has set nothing, which is restored after the test."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def pipe(device: str, calls: list[str]) -> Any:
    return SimpleNamespace(device=torch.device(device), compile=lambda: calls.append(device))


def test_it_outlives_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDXL_CACHE_DIR", str(tmp_path))
    calls = list[str]()
    compile_pipeline(pipe("cuda", calls))
    assert cache_dir() == str(tmp_path / "compiled"), "torch itself takes this folder"
    assert calls == ["cuda"]


def test_the_users_own_folder_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("TORCHINDUCTOR_FX_GRAPH_CACHE", "0")
    compile_pipeline(pipe("cuda", []))
    assert [os.environ[name] for name in NAMES] == [str(tmp_path / "own"), "0"]


def test_elsewhere_nothing_is_compiled_and_nothing_set() -> None:
    calls = list[str]()
    compile_pipeline(pipe("cpu", calls))
    assert calls == ["cpu"], "which warns that it has no effect"
    assert not any(name in os.environ for name in NAMES)
