"""The proofs: each can be started, its target exists and is listed, and a claim that does not hold fails the run."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import common
import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
SHARED = {"common", "damage"}
PROOFS = sorted(path.stem for path in (ROOT / "scripts/proofs").glob("*.py") if path.stem not in SHARED)
MAKEFILE = (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("name", PROOFS)
def test_a_proof_can_be_imported_and_says_its_target(name: str) -> None:
    if name == "parity":
        pytest.importorskip("diffusers")
    module = import_module(name)
    assert Path(module.__file__ or "").parent.name == "proofs"
    text = module.__doc__ or ""
    assert text.startswith("Proof")
    (target,) = {*re.findall(r"^ *make ([\w-]+)", text, re.MULTILINE)}
    assert target in (f"proof-{name.replace('_', '-')}", "proof-fuzz", "smoke")
    rules = re.findall(r"^([\w-]+):.*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE)
    runs = "".join(recipe for rule, recipe in rules if rule == target)
    assert f"/{name}.py" in runs or (target.startswith("proof-") and not runs)
    assert f"`make {target}" in (ROOT / "docs/checks.md").read_text() or target == "smoke"


@pytest.mark.slow
def test_a_proof_runs_as_a_script_from_anywhere(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/proofs/strips.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.returncode, "--rows" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("value", "bounds", "holds", "line"),
    [
        (95.25, {"least": 95, "unit": " %"}, True, "ok   that: 95.25 % (at least 95 %)"),
        (94.9, {"least": 95}, False, "FAIL that: 94.9 (at least 95)"),
        (2.5, {"most": 2, "unit": " GB"}, False, "FAIL that: 2.5 GB (at most 2 GB)"),
        (986, {"least": 986, "most": 986}, True, "ok   that: 986 (at least 986) (at most 986)"),
        (math.nan, {"least": 0}, False, "FAIL that: nan (at least 0)"),
        (math.nan, {}, False, "FAIL that: nan"),
        (True, {}, True, "ok   that"),
        (False, {}, False, "FAIL that"),
    ],
)
def test_a_claim_that_does_not_hold_fails_the_run(
    value: float,
    bounds: dict[str, object],
    holds: bool,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(common, "_FAILURES", [])
    common.claim("this", 1, 0)
    common.claim("that", value, **bounds)  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as ended:
        common.finish()
    assert ended.value.code == (not holds)
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["ok   this: 1 (at least 0)", line]
    assert shown[2].endswith("all held" if holds else "FAILED: that")


def test_measures_of_the_proofs() -> None:
    black, grey = np.zeros((8, 8, 3)), np.full((8, 8, 3), 0.1)
    assert common.psnr(black, grey) == pytest.approx(20)
    assert common.psnr(black, black) == 120
    assert common.equal([black, grey], [black, grey]) and not common.equal([black], [grey])
    assert common.error(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0])) == 0.25
    held = common.memory("VmRSS")  # before its peak, which only grows
    assert common.memory() >= held > 10 * 2**20
