"""The script that measures this package against its peers, at a tiny size."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import benchmark

    return benchmark


@pytest.fixture
def loaders(script: Any) -> Any:
    import peers

    return peers.LOADERS


def options(folder: Path, **more: Any) -> argparse.Namespace:
    given = {"theirs": folder, "device": "cpu", "dtype": None, "compile": False, "whole": None, "steps": 2}
    return argparse.Namespace(**given | more)


@pytest.mark.slow
def test_a_peer_that_fails_stops_no_other(
    script: Any, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing package is named, and tried only once; what the others measured is kept and compared."""
    pytest.importorskip("diffusers")
    (tmp_path / "openvino.py").write_text("raise ImportError('as if it were missing')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    out = tmp_path / "of" / "lines.jsonl"
    flags = ["--ours", str(tiny_folder), "--theirs", str(tiny_folder), "--sizes", "64", "--stages", "step", "decode"]
    flags += ["--dtype", "float32", "--repeats", "1", "--rounds", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *flags, "--peers", "openvino", "sdxl", "diffusers"])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == ("openvino failed: ImportError: openvino is not installed. Try `pip install openvino`.")
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    wanted = ["import", "machine", "load", "first step", "step", "first decode", "decode", "matrix product"]
    assert [line["stage"] for line in lines if line["who"] == "openvino"] == ["failed"]
    for name in ("sdxl", "diffusers"):
        assert [line["stage"] for line in lines if line["who"] == name] == wanted
    step = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| step 64"))
    assert step.split("|")[2].strip() == "-" and all(float(step.split("|")[n]) > 0 for n in (4, 5, 6, 7))


def test_a_peer_over_its_limit(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended, and left out of the second round."""
    out = tmp_path / "lines.jsonl"
    flags = ["--ours", str(tmp_path / "missing"), "--limit", "0.05", "--rounds", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *flags])
    with pytest.raises(SystemExit, match=r"^sdxl failed: over its limit of 0\.05 s$"):
        script.main()
    assert len(out.read_text(encoding="utf-8").splitlines()) == 1


def test_ratios_of_medians(script: Any) -> None:
    def line(who: str, seconds: float, gb: float) -> dict[str, Any]:
        return {"who": who, "stage": "step", "size": 512, "seconds": seconds, "gb": gb}

    lines = [line("sdxl", 1.0, 3.0), line("sdxl", 3.0, 4.0), line("frozen", 3.0, 5.0), line("openvino", 5.0, 2.0)]
    heads, _, row = script.table(lines, ["sdxl", "diffusers", "frozen", "openvino"]).splitlines()
    assert heads.count("|") == row.count("|") == 13
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells == ["2.000", "4.00", "-", "-", "3.000", "5.00", "5.000", "2.00", "-", "1.50", "2.50"]


@pytest.fixture
def _config() -> Iterator[None]:
    """The compiler's setting is as before: pytest's monkeypatch would remove it."""
    from torch._inductor import config

    before = config.freezing
    yield
    config.freezing = before


@pytest.mark.usefixtures("_config")
@pytest.mark.parametrize(
    ("peer", "dtype", "most"),
    [
        ("diffusers", "float32", 1e-6),
        pytest.param("frozen", "float32", 1e-5, marks=pytest.mark.slow),
        pytest.param("openvino", "float32", 1e-5, marks=pytest.mark.slow),
        pytest.param("openvino", "bfloat16", 0.1, marks=pytest.mark.slow),
    ],
)
def test_peers_compute_the_same(
    loaders: Any,
    reference_pipe: Any,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    peer: str,
    dtype: str,
    most: float,
) -> None:
    """Each computes diffusers' own step and image of the same inputs, first and later."""
    from peers import decode_inputs, step_inputs
    from torch._inductor import freezing

    if peer == "openvino":
        pytest.importorskip("openvino")
    if peer == "frozen" and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a compiler")
    freeze = Mock(wraps=freezing.freeze)
    monkeypatch.setattr(freezing, "freeze", freeze)
    x, t, context, pooled, ids = step_inputs(reference_pipe.unet, 64)
    with torch.no_grad():
        added = {"text_embeds": pooled, "time_ids": ids}
        step = reference_pipe.unet(x, t, encoder_hidden_states=context, added_cond_kwargs=added).sample
        image = reference_pipe.vae.decode(decode_inputs(reference_pipe.vae, 64)).sample
    runs = loaders[peer](options(tiny_folder, dtype=dtype))(64)
    for name, wanted in (("step", step), ("decode", image)):
        for _ in range(2):
            found = torch.as_tensor(runs[name]() if peer == "openvino" else runs[name]()[0])
            assert (found - wanted).abs().max() < most * wanted.abs().max()
    assert freeze.call_count == (2 if peer == "frozen" else 0)


def test_a_peer_without_a_model(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--ours", "model", "--peers", "sdxl", "frozen"])
    with pytest.raises(SystemExit, match="2"):
        script.main()
