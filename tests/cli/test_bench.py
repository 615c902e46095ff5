"""The benchmark: its count of operations, its report, and the comparison with diffusers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sdxl
from sdxl.cli.measure import count_flop, path, report
from sdxl.models.published import BASE
from sdxl.runtime.placement import Placement

CPU = torch.device("cpu")


@pytest.mark.slow
def test_operations_are_counted() -> None:
    flop = count_flop(BASE, 1024, 1024)
    assert flop["step"] == pytest.approx(13.52e12, rel=0.01)
    assert flop["decode"] == pytest.approx(10.47e12, rel=0.01)
    assert flop["encode"] == pytest.approx(4.88e12, rel=0.01)


@pytest.mark.parametrize(
    ("placement", "layers"),
    [
        (Placement(CPU, torch.bfloat16, torch.bfloat16, packed=True), "prepacked;"),
        (
            Placement(CPU, torch.float32, torch.float32, packed=True, int8=True),
            "prepacked, the UNet's blocks in 8 bits;",
        ),
        (Placement(CPU, torch.bfloat16, torch.float32), "cast to float32;"),
        (
            Placement(CPU, torch.bfloat16, torch.bfloat16, packed=True, fp8=True),
            "prepacked, those of the blocks kept in float8;",
        ),
        (Placement(CPU, torch.float32, torch.float32), "plain;"),
    ],
)
def test_the_path_is_named_with_its_trial(placement: Placement, layers: str) -> None:
    number = r"\d+\.\d ms in"
    rule = r"float32 takes \d+\.\d\d times as long as bfloat16, which is the default from 1\.2 on"
    assert re.fullmatch(
        f"layers {layers} the trial .* took {number} float32, {number} bfloat16, .*: {rule}; allocator .*",
        path(placement),
    )


@pytest.mark.slow
def test_the_report_has_every_stage() -> None:
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    lines = report(pipe, 64, 64, repeats=1)
    assert [line["stage"] for line in lines] == ["text", "step", "decode", "encode"]
    assert all(line["seconds"] > 0 and line["share"] > 0 for line in lines)


@pytest.mark.slow
def test_the_benchmark_runs_at_a_tiny_size(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    root, out = Path(__file__).parents[2], tmp_path / "lines.jsonl"
    model = root / "weights/miniature/base"
    command = [sys.executable, str(root / "scripts/benchmark.py"), "--dtype", "float32"]
    models = ["--ours", str(model), "--theirs", str(model)]
    small = ["--sizes", "64", "--stages", "step", "picture", "--steps", "1", "--rounds", "1", "--repeats", "1"]
    done = subprocess.run([*command, *models, *small, "--out", str(out)], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    for who in ("sdxl", "diffusers"):
        mine = {line["stage"]: line for line in lines if line["who"] == who}
        assert {"import", "machine", "load", "step", "picture", "matrix product"} <= set(mine)
        assert mine["machine"]["torch"] == torch.__version__
        assert 0 < mine["step"]["seconds"] < mine["picture"]["seconds"] + 1
        assert f"{mine['step']['seconds']:.3f}" in done.stdout
