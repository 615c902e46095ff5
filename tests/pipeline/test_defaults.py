"""A default that has changed does not change what an earlier version wrote: images are replayed and jobs resumed as
they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import sdxl
from sdxl.cli.main import main
from sdxl.images import read_parameters, save_png
from sdxl.jobs.engine import Outcome, work
from sdxl.jobs.folder import open_folder
from sdxl.jobs.job import Batch, read_job
from sdxl.pipeline.defaults import NUMBER, earlier_defaults, number_of, recorded_request
from sdxl.pipeline.request import Request

OLD = Path(__file__).parent.parent / "fixtures/0.1.0"
LONG = "a red circle on a blue background, " * 20


def test_the_numbers() -> None:
    assert [number_of(each) for each in ("sdxl 0.1.0", "sdxl 0.0.9", "sdxl 0.1.0.dev3")] == [0, 0, 0]
    assert [number_of(each) for each in ("sdxl 0.1.1", "sdxl 0.2", "sdxl 1", "None", "")] == [1, 1, 1, NUMBER, NUMBER]
    assert earlier_defaults(0) == {"long_prompt": "truncate", "preset": "none"}
    assert earlier_defaults(NUMBER) == {}
    for number in range(NUMBER):
        Request("a", **earlier_defaults(number))


def test_what_a_record_says_counts() -> None:
    request = {"prompt": "a", "long_prompt": "chunk"}
    assert recorded_request({"version": "sdxl 0.1.0", "request": request}) == request | {"preset": "none"}
    assert recorded_request({"version": "sdxl 0.1.0", "request": {"prompt": "a"}})["long_prompt"] == "truncate"
    assert recorded_request({"version": "sdxl 0.1.1", "request": {"prompt": "a"}}) == {"prompt": "a"}


def test_a_long_prompt_of_the_version_before_is_replayed(tmp_path: Path) -> None:
    """Of an image whose record is version 0.1.0's, with a long prompt."""
    record = read_parameters(OLD / "text.png")
    assert "long_prompt" not in record["request"]
    record["request"] |= {"prompt": LONG, "steps": 1}
    save_png(Image.new("RGB", (128, 128)), tmp_path / "old.png", record)
    for more, way in (([], "truncate"), (["--long-prompt", "chunk"], "chunk")):
        output = tmp_path / f"{way}.png"
        command = ["generate", "--from", str(tmp_path / "old.png"), "--quiet", "--output", str(output), *more]
        with pytest.warns(sdxl.SDXLWarning, match="part was cut off") if not more else nullcontext():
            assert main(command) == 0
        assert read_parameters(output)["request"]["long_prompt"] == way
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    with pytest.warns(sdxl.SDXLWarning, match="part was cut off"):
        wanted = pipe(**record["request"], long_prompt="truncate", progress=False).images[0]
    assert isinstance(wanted, Image.Image)
    with Image.open(tmp_path / "truncate.png") as cut, Image.open(tmp_path / "chunk.png") as whole:
        assert cut.tobytes() == wanted.tobytes()
        assert cut.tobytes() != whole.tobytes()


def arguments(folder: Path, *lines: dict[str, Any]) -> list[Any]:
    """How the long prompts of a job's pending images are taken; they are not finished by this."""
    (folder / "job.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    job, found = read_job(folder / "job.jsonl", {}, {}), list[Any]()

    def engine(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Outcome]]:
        for batch in batches:
            found.append(batch.arguments.get("long_prompt"))
            yield batch, [b"" for _ in batch.files] if "a" in batch.arguments["prompt"] else sdxl.DrawError("stop")

    with open_folder(folder / "out", job, 7) as opened:
        list(work(opened.batches(1), opened, engine))
    return found


def test_a_job_goes_on_under_its_defaults(tmp_path: Path) -> None:
    plan, lines = tmp_path / "out/job/plan.json", [{"prompt": "a"}, {"prompt": "b"}]
    assert arguments(tmp_path, *lines) == [None, None]
    assert json.loads(plan.read_text())["defaults"] == NUMBER
    old = {name: value for name, value in json.loads(plan.read_text()).items() if name in ("job", "first_seed")}
    assert old.keys() == json.loads((OLD / "job/out/job/plan.json").read_text()).keys(), "the form of version 0.1.0"
    plan.write_text(json.dumps(old))
    assert arguments(tmp_path, *lines) == ["truncate"]
    more = [*lines, {"prompt": "b", "long_prompt": "chunk"}, {"prompt": "c"}]
    assert arguments(tmp_path, *more) == ["truncate", "chunk", "truncate"], "also with more lines"
    assert arguments(tmp_path, *more) == ["truncate", "chunk", "truncate"]


def test_a_job_without_images_begins_under_the_present_defaults(tmp_path: Path) -> None:
    plan = tmp_path / "out/job/plan.json"
    assert arguments(tmp_path, {"prompt": "b"}) == [None]
    plan.write_text(json.dumps({name: json.loads(plan.read_text())[name] for name in ("job", "first_seed")}))
    assert arguments(tmp_path, {"prompt": "c"}) == [None]
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"defaults": NUMBER + 1}))
    with pytest.raises(sdxl.OutputError, match=rf"defaults is {NUMBER + 1}; expected 0 to {NUMBER}"):
        arguments(tmp_path, {"prompt": "c"})
