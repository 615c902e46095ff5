"""The examples of docs/serve.md, tried against a running service as a reader would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from serving import Running, serving

import sdxl
from sdxl.serve.openai import routes as openai
from sdxl.serve.sdapi import routes as sdapi

PAGE = (Path(__file__).parents[2] / "docs/serve.md").read_text(encoding="utf-8")
PYTHON, SHELL = (re.findall(rf"^```{name}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) for name in ("python", "sh"))


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    adapters = Path(__file__).parents[2] / "weights/adapters"
    with serving([sdxl.ModelRequest("miniature", dtype="float32", device="cpu", control_dir=adapters)]) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON, ids=lambda code: re.findall(r"^\s*from (?!PIL|base64)(\w+)", code, re.M)[0])
def test_python(code: str, running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(re.findall(r"^\s*from (?!PIL|base64)(\w+)", code, re.MULTILINE)[0])
    if "image_generation_mcp" in code:
        from image_generation_mcp.providers import sd_webui as module

        small = replace(module._SDXL_PRESET, sizes={"1:1": (64, 64)}, steps=3)
        monkeypatch.setattr(module, "_resolve_preset", lambda model: small)
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("7860", str(running.client.port)), "serve.md", "exec"), {"__name__": "example"})
    assert Image.open("circle.png").size in ((128, 128), (64, 64))


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("code", [code for code in SHELL if "curl" in code])
def test_curl(code: str, running: Running, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", code.replace("7860", str(running.client.port))]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "circle.png").size == (128, 128)
    assert "error" not in done.stdout


def test_the_page_names_every_route(running: Running) -> None:
    skins = [make(running.service) for make in (sdapi.skin, sdapi.internal, sdapi.extension, openai.skin)]
    for path in [route.path for skin in skins for route in skin.routes]:  # type: ignore[attr-defined]
        shown = path.replace("{id:path}", "{id}")
        last = shown.removeprefix("/sdapi/v1/").removeprefix("/controlnet/").removeprefix("/")
        assert re.search(rf"[/`]{re.escape(last)}`", PAGE), path
