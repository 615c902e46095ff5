"""LoRAs in jobs: a job is the same wherever the file lies, and another one with another file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from adapter_files import save_layout
from finishing import finish
from test_loras import save_kind

import sdxl
from sdxl.adapters.lookup import find_named
from sdxl.errors import OutputError
from sdxl.jobs import content
from sdxl.jobs.engine import local, work
from sdxl.jobs.folder import open_folder
from sdxl.jobs.job import Job, identity, parse_job

LINES = [
    {"prompt": "a cat", "seed": 1, "steps": 2, "loras": [{"file": "ink.safetensors", "weight": 0.5}]},
    {"prompt": "a dog", "seed": 2, "steps": 2, "loras": ["ink.safetensors"]},
    {"prompt": "a dog", "seed": 2, "steps": 2},
]


def job_in(folder: Path, lora_dir: Path | None = None) -> Job:
    return parse_job("\n".join(map(json.dumps, LINES)), folder, {}, identity({"model": "tiny"}, None), lora_dir)


@pytest.fixture
def files(tiny_folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "lines").mkdir()
    save_layout("kohya sgm", tiny_folder, tmp_path / "lines/ink.safetensors")
    return tmp_path / "lines"


def test_images_of_a_job_have_their_loras(files: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    assert finish(job_in(files), tiny_pipe, tmp_path / "out") == 3
    for line, name in zip(LINES, ("00001.png", "00002.png", "00003.png"), strict=True):
        loras = [
            {**each, "file": files / each["file"]} if isinstance(each, dict) else files / each
            for each in line.get("loras", [])
        ]  # type: ignore[attr-defined]
        wanted = tiny_pipe(**(line | {"loras": loras}), progress=False).images[0]  # type: ignore[arg-type]
        from PIL import Image

        with Image.open(tmp_path / "out" / name) as image:
            assert image.tobytes() == wanted.tobytes()  # type: ignore[union-attr]


def test_a_job_goes_on_where_the_file_has_moved(
    files: Path, tiny_pipe: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path
) -> None:
    assert finish(job_in(files), tiny_pipe, tmp_path / "out") == 3
    (tmp_path / "loras").mkdir()
    (files / "ink.safetensors").rename(tmp_path / "loras/ink.safetensors")
    moved = job_in(files, tmp_path / "loras")
    assert not moved.faults
    assert finish(moved, tiny_pipe, tmp_path / "out") == 0
    (tmp_path / "out/00001.png").unlink()
    assert finish(moved, tiny_pipe, tmp_path / "out") == 1
    save_kind("OFT", tiny_folder, tmp_path / "loras/ink.safetensors")
    with pytest.raises(OutputError, match="holds another job"):
        finish(job_in(files, tmp_path / "loras"), tiny_pipe, tmp_path / "out")


def test_a_line_whose_lora_is_not_found_is_a_fault(files: Path) -> None:
    (files / "ink.safetensors").unlink()
    job = job_in(files)
    assert job.faults.keys() == {1, 2} and len(job.items) == 1
    assert "the LoRA ink.safetensors does not exist" in str(job.faults[1])


def test_a_line_whose_lora_is_damaged_stops_no_other(files: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    whole = (files / "ink.safetensors").read_bytes()
    (files / "ink.safetensors").write_bytes(whole[: len(whole) // 2])
    with open_folder(tmp_path / "out", job_in(files), 0) as folder:
        errors = [str(each.error) for each in work(folder.batches(1), folder, local(tiny_pipe)) if each.error]
    assert len(errors) == 2 and all("ink.safetensors" in each for each in errors)
    assert [each.name for each in (tmp_path / "out").glob("*.png")] == ["00003.png"]


def test_a_folder_is_searched_once_for_the_lora_of_many_lines(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = list[str]()

    def noted(name: str, folders: Sequence[Path], what: str) -> Path:
        searched.append(name)
        return find_named(name, folders, what)

    monkeypatch.setattr(content, "find_named", noted)
    tagged = [{"prompt": f"cat {n} <lora:ink:0.{n + 1}>", "prompt_syntax": "a1111", "steps": 2} for n in range(8)]
    job = parse_job("\n".join(map(json.dumps, tagged)), files, {}, {"model": "tiny"}, files)
    assert not job.faults and len(job.items) == 8
    assert all(len(item.arguments["loras"]) == 1 for item in job.items)
    assert searched == ["ink"]
