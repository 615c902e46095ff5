"""AUTOMATIC1111's parameter text, read into requests."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from infotexts import CASES, EULER, Case, text
from PIL import Image

import sdxl
from sdxl.images import Parameters
from sdxl.images.tools.fields import Fields

KNOWN = {each.name for each in fields(sdxl.Request)}
PIXELS = Image.new("RGB", (64, 64))


def read(content: str, folder: Path) -> Parameters:
    file = folder / "parameters.txt"
    file.write_text(content, encoding="utf-8", newline="")
    return sdxl.read_parameters(file)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_text_is_the_right_request(case: Case, tmp_path: Path) -> None:
    found = read(case.text, tmp_path)
    assert found.request == case.base | case.request
    assert (found.tool, found.model, found.loras) == (case.tool, case.model, case.loras)
    assert set(found.unmapped) == case.unmapped
    assert all(reason for _, reason in found.unmapped.values())
    assert set(found.sources) == case.sources
    files: dict[str, Any] = {name: value for name, value in found["model"].items() if name not in ("model", "sha256")}
    files |= {f"hash of {name}": hash for name, hash in found["model"].get("sha256", {}).items() if name != "model"}
    assert files == case.files
    sources = {name: PIXELS.convert("L") if name == "mask" else PIXELS for name in found.sources}
    sdxl.Request(**{name: value for name, value in found.request.items() if name in KNOWN}, **sources)


def test_a_prompt_that_begins_as_fields_do(tmp_path: Path) -> None:
    found = read(text(EULER, prompt="Steps: to a lighthouse"), tmp_path)
    assert (found.request["prompt"], found.unmapped) == ("Steps: to a lighthouse", {})


def test_a_line_behind_the_fields_changes_none(tmp_path: Path) -> None:
    content = text(EULER)
    found = read(f"{content}\nTemplate: a, Size: 64x64, Seed: 7", tmp_path)
    assert found.request == read(content, tmp_path).request
    assert set(found.unmapped) == {"text behind the parameters"}


@pytest.mark.parametrize(
    "unit",
    ["Steps: 1,\n", ",\n", "\n", "A: 1,", 'A: "', "A: [", " ", "1", "Negative prompt:\n", "Steps: 1\n"],
    ids=repr,
)
@pytest.mark.parametrize("start", ["", "a\nSteps: 1,", "a\nSteps: 1, Model: ", "("], ids=repr)
def test_a_hostile_text_takes_little_time(start: str, unit: str, tmp_path: Path) -> None:
    began = time.process_time()
    with suppress(sdxl.ArgumentError):
        read(start + unit * (2**19 // len(unit) - len(start)) + "b", tmp_path)
    assert time.process_time() - began < 2


def test_a_text_that_is_longer_than_any(tmp_path: Path) -> None:
    with pytest.raises(sdxl.ArgumentError, match="it has 524310 characters; expected at most 524288"):
        read("Steps: 1, Seed: 2, A: " + "b" * 2**19, tmp_path)


def test_a_field_that_is_no_text_is_named() -> None:
    given = Fields({"Model": {"name": "x"}, "Steps": True, "Seed": 5, "VAE": ""})
    assert [given.take(name) for name in ("Model", "Steps", "Seed", "VAE", "Size")] == [None, None, "5", None, None]
    assert {name: each.reason for name, each in given.unmapped.items()} == dict.fromkeys(
        ("Model", "Steps"), "a text was expected"
    )
