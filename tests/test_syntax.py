"""What ruff does not know to be newer syntax than that of the oldest Python that is supported."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def nested_awaits(source: str) -> list[int]:
    """The lines of asynchronous comprehensions inside of other comprehensions: a syntax error before Python 3.11."""
    outer = [node for node in ast.walk(ast.parse(source)) if isinstance(node, COMPREHENSIONS)]
    inner = [node for each in outer for node in ast.walk(each) if isinstance(node, COMPREHENSIONS) and node is not each]
    return [node.lineno for node in inner if any(isinstance(part, ast.Await) for part in ast.walk(node))]


def test_one_is_found() -> None:
    source = "async def f(xs):\n    return {x: [await y for y in x] for x in xs}"
    assert nested_awaits(source) == [2]
    assert not nested_awaits(source.replace("await y", "y"))


@pytest.mark.parametrize("folder", ["sdxl", "scripts", "tests"])
def test_no_nested_asynchronous_comprehension(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    assert not [(path.name, line) for path in files for line in nested_awaits(path.read_text(encoding="utf-8"))]
