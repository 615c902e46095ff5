"""The one run for a CUDA machine: its limits, and that all it measures runs, on the miniature and a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import benchmark_cuda

    return benchmark_cuda


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "lines.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_a_step_that_hangs_or_fails_stops_no_other(script: Any, tmp_path: Path) -> None:
    """One over its limit is ended with all that it has started, and what the time is too short for is left out."""
    mark = tmp_path / "mark"
    grandchild = f"import time; time.sleep(3); open({str(mark)!r}, 'w')"
    hangs = (
        f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {grandchild!r}])"
    )

    def step(code: str, limit: float, **environment: str) -> Any:
        return script.Step([sys.executable, "-c", code], limit, environment)

    steps = {
        "hangs": step(hangs, 1.0),
        "fails": step("import sys; sys.exit(3)", 10.0),
        "works": step("import os; print(os.environ['WORD'])", 10.0, WORD="heard"),
        "late": step("print('too late')", 200.0),
    }
    began = time.monotonic()
    assert not script.run_steps(steps, tmp_path, 14.0)
    found = {line["step"]: line["status"] for line in lines(tmp_path)}
    assert found == {"hangs": "over its limit of 1 s", "fails": 3, "works": 0, "late": "left out"}
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "begun" in log and "heard" in log and "too late" not in log.replace("print('too late')", "")
    time.sleep(max(0.0, 4.5 - (time.monotonic() - began)))
    assert not mark.exists()


def test_steps_by_importance(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark_cuda.py", "--out", str(tmp_path)])
    steps = script.all_steps(script.read_options(["--out", str(tmp_path)]))
    assert list(steps)[:4] == ["checkpoint", "recorded", "tests", "compiled"]
    assert {each.environment.get("TORCHINDUCTOR_CACHE_DIR") for each in (steps["compiled"], steps["warm"])} == {
        str(script.read_options(["--out", str(tmp_path)]).work / "compiled")
    }
    own = script.all_steps(script.read_options(["--out", str(tmp_path), "--model", "a.safetensors"]))
    assert "checkpoint" not in own and "recorded" in own


@pytest.mark.slow
def test_all_of_it_runs_at_a_tiny_size(tmp_path: Path) -> None:
    measured = ["recorded", "compiled", "warm", "control", "text"]
    command = [sys.executable, str(ROOT / "scripts" / "benchmark_cuda.py"), "--tiny", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--budget", "900", "--steps", *measured], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (tmp_path / "log.txt").read_text(encoding="utf-8")
    found = lines(tmp_path)
    assert {line["step"]: line["status"] for line in found if "status" in line} == dict.fromkeys(measured, 0)
    whats = {line["what"] for line in found if "what" in line}
    wanted = {
        "first image",
        "image",
        "image of 4 steps without guidance",
        "step",
        "decode",
        "first step",
        "first decode",
    }
    assert wanted <= whats and "with a ControlNet, 2 steps" in whats
    assert next(line for line in found if line.get("what", "").startswith("bitwise"))["same"]
