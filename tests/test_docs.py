"""The pages: links lead somewhere, names and flags exist, pictures of the code are current, words are the field's."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from test_rooms import ALLOWED

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("weights/README.md")),
    *sorted(ROOT.glob("weights/*/README.md")),
]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAME = re.compile(r"`(sdxl(?:\.\w+)+)[`(]")


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(text(page)) if name == language]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in LINK.findall(FENCE.sub("", text(page))):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not link.startswith(("http://", "https://")) and (
            not target.exists() or (anchor and anchor not in anchors(target))
        ):
            broken.append(link)
    return broken


def resolve(name: str) -> Any:
    """The object of a dotted name."""
    value = import_module("sdxl")
    for n, part in enumerate(parts := name.split(".")[1:], 1):
        value = getattr(value, part) if hasattr(value, part) else import_module(".".join(["sdxl", *parts[:n]]))
    return value


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken_links(page)


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` c\n[a](#a-b-c) [b](#d) [c](page.md#a-b-c) [d](none.md) ![e](e.png) [f](https://x.y)\n")
    assert broken_links(page) == ["#d", "none.md", "e.png"]


def test_the_readme_is_short() -> None:
    assert len(text(ROOT / "README.md").splitlines()) <= 150


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name != "api"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_python_in_pages_is_python_and_its_imports_exist(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sdxl":
                assert all(hasattr(import_module(str(node.module)), alias.name) for alias in node.names), code


def test_dotted_names_in_pages_exist() -> None:
    """In the table of moved names, those on the right."""
    for page in PAGES:
        for line in text(page).splitlines():
            present = line.split("|")[2] if page.name == "CHANGELOG.md" and line.startswith("|") else line
            for name in NAME.findall(present):
                resolve(name)


def test_commands_in_pages_have_the_flags_and_targets_that_exist() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "sdxl", "generate", "--help"], capture_output=True, text=True, check=True
    )
    flags = {*re.findall(r"--[a-z0-9-]+", shown.stdout), "--help"}
    targets = re.findall(r"^([\w%-]+):", text(ROOT / "Makefile"), re.MULTILINE)
    for page in PAGES:
        for code in blocks(page, "sh"):
            for line in code.replace("\\\n", " ").splitlines():
                line = line.split(" #")[0]
                if "sdxl generate" in line:
                    assert {*re.findall(r" (--[a-z0-9-]+)", line)} <= flags, line
        for target in re.findall(r"(?:^|`)make ([a-z][\w-]*\w)\b(?!-)", text(page), re.MULTILINE):
            script = ROOT / f"scripts/proofs/{target.removeprefix('proof-').replace('-', '_')}.py"
            assert target in targets or (target.startswith("proof-") and script.exists()), target


def test_the_api_reference_is_current() -> None:
    import write_api

    assert not write_api.stale(), "run make docs"


def test_the_api_reference_has_every_public_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import write_api

    with_names = {path.parent.name for path in ROOT.glob("sdxl/*/__init__.py") if "exports(" in text(path)}
    assert {package.rpartition(".")[2] for package in write_api.PACKAGES} == {*with_names, "sdxl"}
    for package in write_api.PACKAGES:
        page, linked = write_api.page(package), write_api.page(write_api.TOP)
        for name in {*import_module(package).__all__} - {"__version__"}:
            entry = linked if f"](sdxl.md#{name.lower()})" in page else page
            _, heading, rest = entry.partition(f"\n## {name}\n")
            assert heading and len(rest.partition("\n## ")[0]) > 40, (package, name)
    monkeypatch.setattr(write_api, "PAGES", tmp_path)
    (tmp_path / "old.md").touch()
    assert write_api.main() == 0
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in write_api.pages()}
    assert write_api.stale() == []


def test_the_table_of_conventions_is_current() -> None:
    import write_conventions

    page = text(write_conventions.PAGE)
    assert page == write_conventions.current(page), "run make docs"
    rows = [line for line in write_conventions.table().splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    for name in ("diffusers", "sgm", "comfyui", "a1111"):
        assert sum(re.search(rf"\b{name}\b[^|;]*: ", row) is not None for row in rows) > 10, name


def test_every_script_is_in_the_table_of_scripts() -> None:
    _, _, table = text(ROOT / "CONTRIBUTING.md").partition("## Scripts\n")
    listed = re.findall(r"`(\w+\.py)`", re.sub(r"^\| `proofs`.*", "", table.partition("\n## ")[0], flags=re.MULTILINE))
    assert sorted(listed) == sorted(path.name for path in (ROOT / "scripts").glob("*.py"))


def test_the_page_of_parity_has_only_tests_that_measure_an_error() -> None:
    import parity_report

    tests = {
        parity_report.stage(ROOT / "tests" / name, node.name)
        for name in parity_report.FILES
        for node in ast.walk(ast.parse(text(ROOT / "tests" / name)))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if "error" in [argument.arg for argument in node.args.args]
    }
    rows = re.findall(r"^\| (\w+: [^|]+) \| [^|]* \| (\d\.\de[+-]\d\d) \|$", text(parity_report.PAGE), re.MULTILINE)
    assert rows and {test for test, _ in rows} <= tests, "run python scripts/parity_report.py"
    assert all(float(error) < 1e-4 for _, error in rows)


def test_the_picture_of_the_rooms_is_current() -> None:
    import draw_rooms

    page = text(draw_rooms.PAGE)
    assert page == draw_rooms.with_block(page, "rooms", draw_rooms.picture()), "run python scripts/draw_rooms.py"


def test_the_table_of_the_rooms_is_the_import_rule() -> None:
    rows = re.findall(r"^\| `(\w+)` \|[^|]+\|([^|]*)\|$", text(ROOT / "docs/architecture.md"), re.MULTILINE)
    table = {room: set(re.findall(r"`(\w+)`", others)) for room, others in rows}
    assert table.pop("cli") == set()  # "all others"
    assert ALLOWED["cli"] == ALLOWED.keys() - {"cli"}
    assert table == {room: others for room, others in ALLOWED.items() if room != "cli"}


def test_arrows_that_follow_from_others_are_left_out_and_circles_are_errors() -> None:
    import draw_rooms

    assert [*draw_rooms.direct({"a": {"b", "c"}, "b": {"c"}, "c": set()})] == [("a", "b"), ("b", "c")]
    with pytest.raises(ValueError, match="circle"):
        list(draw_rooms.direct({"a": {"b"}, "b": {"a"}}))
    with pytest.raises(ValueError, match="rooms:begin"):
        draw_rooms.with_block("a page", "rooms", "")


def test_words_are_found_in_prose_and_not_in_code_or_quotations(tmp_path: Path) -> None:
    import check_words

    page, code = tmp_path / "page.md", tmp_path / "code.py"
    page.write_text(
        'It is told.\n`told` "anew" [a](told.md)\n```\ntold\n```\n| old | new |\n|---|---|\n| told | x |\nheard\n'
    )
    code.write_text(
        '"""A picture.\n\nTold `anew`."""\n\ntold = "picture.png"  # whoever asks\nx = f"a {told} is so; b"\n'
    )
    assert [(line, word) for line, word, _ in check_words.find(page)] == [(1, "told"), (9, "heard")]
    found = [(line, word) for line, word, _ in check_words.find(code)]
    assert found == [(1, "picture"), (3, "Told"), (5, "whoever"), (6, "is so")]
    assert check_words.main([str(page)]) == 1


def quoted_messages(page: Path) -> list[str]:
    """The messages in a page's blocks of text, each on one line."""
    lines = " ".join(blocks(page, "text")).replace("\n", " ")
    return [each.strip() for each in re.split(r"(?:^|\s)(?:error|warning|sdxl\.errors\.\w+): ", lines) if each.strip()]


def templates() -> list[re.Pattern[str]]:
    """The texts of the package as patterns, in which a group stands for what differs."""
    import list_errors

    found = set()
    for path in ROOT.glob("sdxl/**/*.py"):
        for node in ast.walk(ast.parse(text(path))):
            if isinstance(node, (ast.JoinedStr, ast.BinOp, ast.Constant)):
                found.add(list_errors.template(node))
    parts = (re.split(r"\{(?:[^{}]|\{[^{}]*\})*\}", each) for each in found)
    return [re.compile("(.+)".join(map(re.escape, each)), re.DOTALL) for each in parts if len("".join(each)) >= 12]


def is_of_the_package(message: str, known: list[re.Pattern[str]]) -> bool:
    """Whether the package makes such a message; long parts that differ must be messages too."""
    matches = (pattern.fullmatch(message) for pattern in known)
    return any(
        all(len(part) < 40 or is_of_the_package(part, known) for part in match.groups()) for match in matches if match
    )


def test_messages_in_pages_are_those_of_the_package() -> None:
    known = templates()
    messages = quoted_messages(ROOT / "docs/troubleshooting.md")
    assert len(messages) >= 14
    for message in messages:
        assert is_of_the_package(message, known), message
    for other in (
        "the memory is full; buy more of it",
        "out holds another job; choose another folder",
        messages[0].replace("NaN", "zeros"),
    ):
        assert not is_of_the_package(other, known), other


def test_samplers_and_schedules_of_the_pages_are_those_of_the_tables() -> None:
    from sdxl.sampling import SAMPLERS, SCHEDULES

    for name, table in (("samplers", SAMPLERS), ("schedules", SCHEDULES)):
        (row,) = re.findall(rf"^\| {name} \| (.*) \|$", text(ROOT / "README.md"), re.MULTILINE)
        assert len(named := set(re.findall(r"`(\w+)`", row))) >= 5 and named <= table.keys()
    page = text(ROOT / "docs/coming-from.md")
    for flag, table in (("sampler", SAMPLERS), ("schedule", SCHEDULES)):
        _, _, rest = page.partition(f"| `--{flag}` |\n|---|---|\n")
        rows = re.findall(r"^\| (.+) \| `(\w+)` \|$", rest.partition("\n\n")[0], re.MULTILINE)
        assert {*rows} == {(each.a1111, name) for name, each in table.items() if each.a1111}, flag


def test_the_citation_is_of_this_version() -> None:
    from sdxl.version import __version__

    assert f"\nversion: {__version__}\n" in text(ROOT / "CITATION.cff")
