"""The files of the page, without a browser: small, complete, and of this host alone."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from fake import FakePipe, loader
from serving import serving

from sdxl.pipeline import ModelRequest
from sdxl.pipeline.hires import Hires
from sdxl.serve.app import PAGE

MOST = 61_000  # bytes, of all files together
CONTROLS = (
    *("prompt", "negative", "width", "height", "steps", "seed", "strength", "generate", "stop", "progress", "results"),
    *("upload", "mask", "brush-size", "erase", "undo", "clear"),
)
FILES = sorted(PAGE.iterdir())


def text(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in FILES) <= MOST
    assert [path.suffix for path in FILES].count(".js") == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_no_file_names_another_host(path: Path) -> None:
    words = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")  # a namespace
    assert re.findall(r"(?:https?:|wss?:)?//[\w.-]+\.\w+", words) == []
    assert "@import" not in words


def test_nothing_is_inline() -> None:
    page = text("index.html")
    assert re.findall(r"\s(?:on\w+|style)=", page) == []
    assert re.findall(r"<script[^>]*>(.+?)</script>|<style", page) == []


def test_the_page_has_what_its_module_looks_for() -> None:
    page, module = text("index.html"), text("page.js")
    ids = set(re.findall(r'\sid="([\w-]+)"', page))
    assert set(re.findall(r'\$\("([\w-]+)"\)', module)) <= ids
    names = set(re.findall(r'\sname="(\w+)"', page))
    assert set(re.findall(r'control\("(\w+)"\)', module)) <= names
    icons = set(re.findall(r'data-icon="(\w+)"', page)) | set(re.findall(r'addIcon\(.*, "(\w+)"\)', module))
    icons |= set(re.findall(r'id="(\w+)"[^>]* data-icon>', page))  # of the same name
    drawn = re.search(r"const ICONS = {\n(.*?)\n};", module, re.DOTALL)
    assert drawn is not None
    assert icons == set(re.findall(r"^  (\w+):", drawn[1], re.MULTILINE))
    assert set(CONTROLS) <= ids  # of which the module makes names for tests


def test_the_controls_are_arguments() -> None:
    from sdxl.serve.openapi import describe

    given = describe()["components"]["schemas"]["JobRequest"]["properties"]
    assert set(re.findall(r'\sname="(\w+)"', text("index.html"))) - {"viewport"} <= set(given)
    assert set(re.findall(r'\sname="hires\.(\w+)"', text("index.html"))) <= {each.name for each in fields(Hires)}


def test_the_files_are_served() -> None:
    with serving([ModelRequest("miniature")], load=loader(FakePipe())) as running:
        for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/style.css", "text/css")):
            answer = running.client.get(path)
            assert answer.status == 200
            assert answer.headers["content-type"].startswith(kind)
            assert "script-src 'self'" in answer.headers["content-security-policy"]
            tag = answer.headers["etag"]
            assert running.client.get(path, if_none_match=tag).status == 304
