"""Pictures and a half-finished job that version 0.1.0 wrote: later versions replay the ones and go on with the other.

tests/fixtures/0.1.0/README.md says how they were made.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

FIXTURES = Path(__file__).parent / "fixtures/0.1.0"
COMMON = ["--model", "miniature", "--dtype", "float32", "--device", "cpu", "--steps", "4", "--quiet"]
JOB = ["--batch", "job.jsonl", "--output-dir", "out", "--batch-size", "2", "--seed", "7"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the fixtures."""
    return Path(shutil.copytree(FIXTURES, tmp_path / "0.1.0"))


def generate(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the command line there; its exit status, and what it says."""
    command = [sys.executable, "-m", "sdxl", "generate", *arguments]
    run = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return run.returncode, run.stdout


def assert_same(path: Path, expected: Path) -> None:
    """The same picture, but for the rounding of another kind of processor, and the same record of its arguments."""
    with Image.open(path) as ours, Image.open(expected) as theirs:
        assert ours.size == theirs.size
        assert abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1, path.name
        records: list[dict[str, Any]] = [json.loads(each.info["sdxl"])["request"] for each in (ours, theirs)]
    assert records[1].items() <= records[0].items()  # a later version may know more arguments


@pytest.mark.parametrize(
    ("name", "sources"), [("text.png", []), ("edit.png", ["--image", "source.png", "--mask", "mask.png"])]
)
def test_a_picture_is_replayed(name: str, sources: list[str], folder: Path) -> None:
    arguments = ["--from", name, *sources, "--device", "cpu", "--quiet", "--output", "again.png"]
    status, said = generate(folder, *arguments)
    assert (status, "warning" in said) == (0, False), said
    assert_same(folder / "again.png", FIXTURES / name)


def pictures(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each picture was written, and its bytes."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.png")}


def test_a_job_goes_on(folder: Path) -> None:
    out, wanted = folder / "job/out", json.loads((FIXTURES / "finished.json").read_text())["job"]
    old, record = pictures(out), (out / "job/done.jsonl").read_text()
    assert 0 < len(old) < len(wanted)
    status, said = generate(folder / "job", *COMMON, *JOB)
    assert (status, "line 4 of job.jsonl: " in said) == (1, True), said
    assert f"{len(wanted)} of {len(wanted)} " in said
    new, whole = pictures(out), (out / "job/done.jsonl").read_text()
    assert set(new) == set(wanted)
    assert old.items() <= new.items(), "a finished picture was written again"
    for name in set(new) - set(old):
        assert_same(out / name, FIXTURES / "finished" / name)
    assert whole.startswith(record)
    drawn = [file for line in whole.splitlines() for file in json.loads(line)["files"]]
    assert sorted(drawn) == sorted(wanted), "a picture was drawn twice"
    again = generate(folder / "job", *COMMON, *JOB)
    assert again == (status, said), "there was nothing left to do"
    assert (pictures(out), (out / "job/done.jsonl").read_text()) == (new, whole)
