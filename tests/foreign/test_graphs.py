"""ComfyUI's graphs, read into requests."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from graphs import BASE, Case
from graphs import CASES as OWN
from pack_graphs import CASES as PACKS
from PIL import Image

import sdxl
from sdxl.images import Parameters

KNOWN = {each.name for each in fields(sdxl.Request)}
PIXELS = Image.new("RGB", (64, 64))


def read(nodes: Any, folder: Path) -> Parameters:
    file = folder / "graph.json"
    file.write_text(json.dumps(nodes), encoding="utf-8")
    return sdxl.read_parameters(file)


@pytest.mark.parametrize("case", [*OWN, *PACKS], ids=lambda case: case.name)
def test_a_graph_is_the_right_request(case: Case, tmp_path: Path) -> None:
    found = read(case.nodes, tmp_path)
    assert found.request == BASE | case.expected
    assert (found.tool, found.model) == ("ComfyUI", ("base_v1.safetensors", None))
    assert set(found.unmapped) == case.unmapped
    assert found.sources == case.sources
    assert {name: value for name, value in found["model"].items() if name != "model"} == case.files
    sources = {name: PIXELS.convert("L") if name == "mask" else PIXELS for name in found.sources}
    sdxl.Request(**{name: value for name, value in found.request.items() if name in KNOWN}, **sources)
