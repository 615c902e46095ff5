"""Images and a half-finished job of version 0.1.0: later versions replay the images and resume the job.

tests/fixtures/0.1.0/README.md describes how they were made.
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
JOB = ["--batch", "job.jsonl", "--output-dir", "out", "--seed", "7", "--batch-size"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the fixtures."""
    return Path(shutil.copytree(FIXTURES, tmp_path / "0.1.0"))


def generate(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the command line there; its exit status and its output."""
    command = [sys.executable, "-m", "sdxl", "generate", *arguments]
    run = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return run.returncode, run.stdout


def assert_same(path: Path, expected: Path) -> None:
    """The same image, except for rounding on another processor, and the same record of its arguments."""
    with Image.open(path) as ours, Image.open(expected) as theirs:
        assert ours.size == theirs.size
        assert abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1, path.name
        records: list[dict[str, Any]] = [json.loads(each.info["sdxl"])["request"] for each in (ours, theirs)]
    # a later version may know more arguments, and says which eta a sampler had by itself
    records[1] |= {} if records[1]["sampler"] == "ddim" else {"eta": records[0]["eta"]}
    assert records[1].items() <= records[0].items()


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("text.png", []),
        pytest.param("edit.png", ["--image", "source.png", "--mask", "mask.png"], marks=pytest.mark.slow),
    ],
)
def test_an_image_is_replayed(name: str, sources: list[str], folder: Path) -> None:
    arguments = ["--from", name, *sources, "--device", "cpu", "--quiet", "--output", "again.png"]
    status, output = generate(folder, *arguments)
    assert (status, "warning" in output) == (0, False), output
    assert_same(folder / "again.png", FIXTURES / name)


def images(folder: Path) -> dict[str, tuple[int, bytes]]:
    """The time and the bytes of each image."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.png")}


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", ["2", "3"])
def test_a_job_is_resumed(batch_size: str, folder: Path) -> None:
    """With its batch size, or with another one."""
    out, wanted = folder / "job/out", json.loads((FIXTURES / "finished.json").read_text())["job"]
    old, journal = images(out), (out / "job/done.jsonl").read_text()
    assert 0 < len(old) < len(wanted)
    status, output = generate(folder / "job", *COMMON, *JOB, batch_size)
    assert (status, "line 4 of job.jsonl: " in output) == (1, True), output
    assert f"{len(wanted)} of {len(wanted)} " in output
    new, whole = images(out), (out / "job/done.jsonl").read_text()
    assert set(new) == set(wanted)
    assert old.items() <= new.items(), "a finished image was written again"
    for name in set(new) - set(old):
        assert_same(out / name, FIXTURES / "finished" / name)
    assert whole.startswith(journal)
    written = [file for line in whole.splitlines() for file in json.loads(line)["files"]]
    assert sorted(written) == sorted(wanted), "an image was generated twice"
    plan = json.loads((out / "job/plan.json").read_text())
    old_plan = json.loads((FIXTURES / "job/out/job/plan.json").read_text())
    assert plan == old_plan | {"job": plan["job"], "dtype": "float32", "arithmetic": "float32", "defaults": 0}
    lines = [json.loads(line) for line in whole.removeprefix(journal).splitlines()]
    assert all(len(each["files"]) == len(each["seeds"]) == len(each["lines"]) == 1 for each in lines), "image by image"
    again = generate(folder / "job", *COMMON, *JOB, batch_size)
    assert again == (status, output), "nothing was pending"
    assert (images(out), (out / "job/done.jsonl").read_text()) == (new, whole)
