"""The script that measures images a second, at a tiny size."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

import sdxl
from sdxl.errors import OutOfMemoryError

SCRIPT = Path(__file__).parents[1] / "scripts/throughput.py"


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.mark.slow
def test_each_size_is_a_line(
    script: dict[str, Any], tiny_folder: Path, reference_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A size that would take too long, or for which memory does not suffice, is named and left out."""
    calls: list[dict[str, Any]] = []
    call = sdxl.Pipeline.__call__

    def noted(self: sdxl.Pipeline, *given: Any, **arguments: Any) -> Any:
        if len(arguments["prompt"]) == 3:
            raise OutOfMemoryError("memory ran out with offload none")
        calls.append(arguments)
        return call(self, *given, **arguments)

    monkeypatch.setattr(sdxl.Pipeline, "__call__", noted)
    out = tmp_path / "lines.jsonl"
    flags = ["--model", str(tiny_folder), "--size", "64", "--steps", "3", "--device", "cpu", "--dtype", "float32"]
    flags += ["--batches", "1", "1000000", "3", "2", "--seconds", "0", "--limit", "1000", "--out", str(out)]
    assert script["main"](flags) == 0
    facts, one, many, three, two = map(json.loads, out.read_text().splitlines())
    assert many == {"batch": 1000000, "skipped": "it would not end within 1000 s"}
    assert three == {"batch": 3, "skipped": "memory ran out with offload none"}
    assert (one["batch"], one["images"], two["batch"], two["images"]) == (1, 1, 2, 2)
    for line in (one, two):
        assert line["images_per_s"] == pytest.approx(line["images"] / line["seconds"])
        assert line["share_of_bound"] == pytest.approx(line["images_per_s"] / facts["bound_images_per_s"])
        assert line["step_s"] > 0 and line["decode_s"] > 0 and line["peak_gb"] > 0.1
    assert [(len(each["prompt"]), each["steps"]) for each in calls] == [(1, 2), (1, 3), (2, 2), (2, 3)]
    texts = [text for each in calls for text in each["prompt"]]
    assert len({*texts}) == len(texts), "no text is encoded twice"
    rules = {"guidance_scale": 8.0, "sampler": "euler", "width": 64, "height": 64}
    assert all(each.items() >= rules.items() and each["negative_prompt"].endswith("nsfw, nude") for each in calls)
    image = {"height": 64, "width": 64, "num_inference_steps": 3, "guidance_scale": 8.0, "output_type": "np"}
    with FlopCounterMode(display=False) as counter:  # it encodes the negative text too
        reference_pipe("a cat", negative_prompt="a dog", **image)
    assert facts["image_tflop"] * 1e12 == pytest.approx(counter.get_total_flops(), rel=0.05)
