"""List every error message of the package with its place and class, to be read as a user would."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sdxl import errors

PACKAGE = Path(errors.__file__).parent
KINDS = {
    name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.SDXLError)
}


@dataclass(frozen=True)
class Message:
    """`text` is the template, with {} around what differs; other code where the sentence is made elsewhere."""

    place: str
    kind: str
    text: str


def messages() -> Iterator[Message]:
    """All errors that are made in the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS and node.args:
                yield Message(f"{path.relative_to(PACKAGE)}:{node.lineno}", node.func.id, template(node.args[0]))


def template(node: ast.expr) -> str:
    """A string as it is written, f-strings with the code of their fields in braces."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_field(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    return "{" + ast.unparse(node) + "}"


def _field(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    assert isinstance(part, ast.FormattedValue)
    return "{" + ast.unparse(part.value) + "}"


if __name__ == "__main__":
    for message in messages():
        print(f"{message.place} {message.kind}\n    {message.text}")
