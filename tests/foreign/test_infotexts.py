"""AUTOMATIC1111's parameter text, read into requests."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from infotexts import CASES, Case
from PIL import Image

import sdxl
from sdxl.images import Parameters

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
