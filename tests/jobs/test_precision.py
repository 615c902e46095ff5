"""The dtype and the arithmetic of a job and of a replay: those of the first image, whatever a machine prefers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

import sdxl
from sdxl.cli.main import main
from sdxl.errors import ArgumentError, SDXLWarning
from sdxl.images.record import save_png
from sdxl.jobs.folder import open_folder
from sdxl.jobs.job import parse_job
from sdxl.jobs.plan import JobPlan, read_plan, write_plan
from sdxl.pipeline.defaults import NUMBER
from sdxl.pipeline.loading import choose_precision, open_loader
from sdxl.pipeline.model_request import ModelRequest
from sdxl.runtime.memory import RESERVE
from sdxl.runtime.precision import Precision, recorded_precision

HALF, MIXED, FULL = Precision("bfloat16", "bfloat16"), Precision("bfloat16", "float32"), Precision("float32", "float32")


def is_fast(bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this machine one that is fast or slow in bfloat16."""
    seconds = {torch.float32: 2.0, torch.bfloat16: 1.0 if bfloat16 else 9.0, torch.float16: 9.0}
    monkeypatch.setattr("sdxl.runtime.device.cpu_seconds", lambda: seconds)


def generate(model: Path | str, *more: str) -> int:
    return main(["generate", "--model", str(model), "--device", "cpu", "--quiet", "--steps", "2", "--seed", "1", *more])


def job_command(tmp_path: Path) -> list[str]:
    """The flags of a job of three images."""
    (tmp_path / "job.jsonl").write_text("".join(json.dumps({"prompt": each}) + "\n" for each in "abc"))
    return ["--batch", str(tmp_path / "job.jsonl"), "--output-dir", str(tmp_path / "out")]


def record(path: Path) -> Precision | None:
    """What an image says of itself."""
    with Image.open(path) as image:
        return recorded_precision(json.loads(image.info["sdxl"])["model"])


# ---- jobs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fast_first", "first", "other"), [(True, HALF, FULL), (False, FULL, HALF)])
def test_a_job_goes_on_in_the_precision_of_its_first_process(
    fast_first: bool,
    first: Precision,
    other: Precision,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = job_command(tmp_path)
    is_fast(fast_first, monkeypatch)
    with warnings.catch_warnings(record=True) as caught:
        assert generate(tiny_folder, *command) == 0
    assert not any(isinstance(each.message, SDXLWarning) for each in caught)
    plan = read_plan(tmp_path / "out/job/plan.json")
    assert (plan.precision, record(tmp_path / "out/00003.png")) == (first, first)
    wanted = (tmp_path / "out/00003.png").read_bytes()
    (tmp_path / "out/00003.png").unlink()
    is_fast(not fast_first, monkeypatch)
    with pytest.warns(SDXLWarning, match=f"the job has {first}, .*; this machine would choose {other}"):
        assert generate(tiny_folder, *command) == 0
    assert (tmp_path / "out/00003.png").read_bytes() == wanted
    assert read_plan(tmp_path / "out/job/plan.json") == plan


def test_a_folder_of_an_older_version_takes_that_of_its_first_image(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = job_command(tmp_path)
    is_fast(True, monkeypatch)
    assert generate(tiny_folder, *command) == 0
    plan = tmp_path / "out/job/plan.json"
    write_plan(read_plan(plan).with_precision(None), plan)
    (tmp_path / "out/00001.png").write_text("no image any more")
    (tmp_path / "out/00002.png").unlink()
    is_fast(False, monkeypatch)
    with pytest.warns(SDXLWarning, match=f"the job has {HALF}"):
        assert generate(tiny_folder, *command) == 0
    assert read_plan(plan).precision == record(tmp_path / "out/00002.png") == HALF


def test_a_job_whose_dtype_is_asked_for_keeps_its_arithmetic(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*job_command(tmp_path), "--dtype", "bfloat16"]
    is_fast(False, monkeypatch)
    assert generate(tiny_folder, *command) == 0
    (tmp_path / "out/00003.png").unlink()
    is_fast(True, monkeypatch)
    with pytest.warns(SDXLWarning, match=f"would choose {HALF}"):
        assert generate(tiny_folder, *command) == 0
    assert record(tmp_path / "out/00003.png") == MIXED


def test_the_first_process_decides(tmp_path: Path) -> None:
    """Also if another one had begun to choose before it."""
    job = parse_job('{"prompt": "a"}', Path(), {}, {})
    with open_folder(tmp_path, job, 7) as folder:
        path = tmp_path / "job/plan.json"

        def slow_choice() -> Precision:
            write_plan(read_plan(path).with_precision(HALF), path)  # by another process
            return FULL

        assert folder.agree(slow_choice) == HALF
        assert folder.agree(lambda: FULL) == HALF
    with open_folder(tmp_path, job, 7) as folder:
        assert folder.plan == JobPlan(job.fingerprint, 7, "bfloat16", "bfloat16", NUMBER)
    with open_folder(tmp_path, parse_job('{"prompt": "b"}', Path(), {}, {}), 7) as folder:
        assert folder.plan.precision is None, "without finished images another job may choose"


@pytest.mark.slow
def test_another_processor(tmp_path: Path) -> None:
    """One that oneDNN may use less of."""
    command = [
        "--model",
        "miniature",
        "--device",
        "cpu",
        "--quiet",
        "--steps",
        "2",
        "--seed",
        "1",
        *job_command(tmp_path),
    ]

    def run(**environment: str) -> str:
        arguments = [sys.executable, "-m", "sdxl", "generate", *command]
        done = subprocess.run(arguments, env=os.environ | environment, capture_output=True, text=True, check=True)
        return done.stderr

    run()
    first = record(tmp_path / "out/00001.png")
    (tmp_path / "out/00003.png").unlink()
    printed = run(ONEDNN_MAX_CPU_ISA="AVX2")
    assert record(tmp_path / "out/00003.png") == first
    if first == HALF:
        assert f"this machine would choose {FULL}" in printed


@pytest.mark.slow
def test_workers_of_ray_take_that_of_the_job(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    command = [*job_command(tmp_path), "--engine", "ray", "--workers", "2"]
    arguments = [sys.executable, "-m", "sdxl", "generate", "--model", "miniature", "--device", "cpu", "--quiet"]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}

    def run() -> str:
        whole = [*arguments, "--steps", "2", "--seed", "1", *command]
        return subprocess.run(whole, env=environment, capture_output=True, text=True, check=True).stderr

    run()
    plan = tmp_path / "out/job/plan.json"
    chosen = read_plan(plan).precision
    assert chosen is not None and {record(path) for path in (tmp_path / "out").glob("*.png")} == {chosen}
    for path in (tmp_path / "out").glob("*.png"):
        path.unlink()
    write_plan(read_plan(plan).with_precision(MIXED), plan)  # which no machine chooses
    assert f"the job has {MIXED}" in run()
    assert {record(path) for path in (tmp_path / "out").glob("*.png")} == {MIXED}


# ---- replays ---------------------------------------------------------------------------------------------------------


def test_an_image_is_replayed_in_its_precision(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    is_fast(True, monkeypatch)
    assert generate(tiny_folder, "--prompt", "a", "--output", str(first)) == 0
    replay = ["generate", "--from", str(first), "--device", "cpu", "--quiet", "--output", str(again)]
    assert main(replay) == 0
    assert "would choose" not in capsys.readouterr().err
    is_fast(False, monkeypatch)
    assert main(replay) == 0
    assert f"{HALF}, as recorded; this machine would choose {FULL}\n" in capsys.readouterr().err
    with Image.open(first) as ours, Image.open(again) as theirs:
        assert ours.tobytes() == theirs.tobytes()
    assert record(again) == HALF
    assert main([*replay, "--dtype", "bfloat16"]) == 0
    assert record(again) == MIXED, "a dtype that is asked for comes with this machine's arithmetic"
    assert "as recorded" not in capsys.readouterr().err


@pytest.mark.parametrize("damage", [{"arithmetic": "float64"}, {"arithmetic": ["\x1b"]}])
def test_an_image_without_a_valid_arithmetic_is_replayed(
    damage: dict[str, object], tiny_folder: Path, tmp_path: Path
) -> None:
    assert generate(tiny_folder, "--prompt", "a", "--output", str(tmp_path / "a.png"), "--dtype", "float32") == 0
    with Image.open(tmp_path / "a.png") as image:
        parameters = json.loads(image.info["sdxl"])
        parameters["model"] |= damage
        save_png(image, tmp_path / "a.png", parameters)
    assert main(["generate", "--from", str(tmp_path / "a.png"), "--quiet", "--output", str(tmp_path / "b.png")]) == 0


# ---- the loader ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "precision", [FULL, HALF, MIXED, Precision("float16", "float16"), Precision("float16", "float32")]
)
def test_any_precision_can_be_asked_for(
    precision: Precision, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fast or not, with prepacked layers for it or without."""
    for able in (True, False):
        if not able:
            monkeypatch.setattr("sdxl.runtime.onednn.can_compute", lambda dtype: dtype is torch.float32)
        pipe = sdxl.Pipeline.from_request(ModelRequest(tiny_folder, device="cpu"), precision=precision)
        result = pipe("a", steps=1, seed=1, progress=False)
        assert recorded_precision(result.parameters[0]["model"]) == precision


def test_a_precision_is_valid() -> None:
    for dtype, arithmetic in (("float64", "float64"), ("float32", "bfloat16"), ("bfloat16", "float16"), ([], "")):
        with pytest.raises(ArgumentError, match="it must be"):
            Precision(dtype, arithmetic)  # type: ignore[arg-type]
    assert recorded_precision({"dtype": "float32"}) is None


def test_a_precision_is_no_other_than_the_dtype_that_is_asked_for(tiny_folder: Path) -> None:
    with pytest.raises(ArgumentError, match="leave one of them out"):
        open_loader(ModelRequest(tiny_folder, dtype="float32", device="cpu"), HALF)


def test_what_this_machine_would_choose(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is short of memory; what is asked for is kept then."""
    is_fast(False, monkeypatch)
    assert choose_precision(ModelRequest(tiny_folder, device="cpu")) == FULL
    short = ModelRequest(tiny_folder, device="cpu", offload="auto", max_memory=RESERVE + 1e6)
    assert choose_precision(short) == Precision("float16", "float32")
    pipe = sdxl.Pipeline.from_request(short, precision=FULL)
    assert (pipe.dtype, pipe.offload) == (torch.float32, "block")
