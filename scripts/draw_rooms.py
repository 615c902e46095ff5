"""Draw which room of the package imports which, into docs/architecture.md, as the code says it.

    python scripts/draw_rooms.py           # write the picture
    python scripts/draw_rooms.py --check   # exit with 1 if the page has another one

An arrow is an import, also one for type checkers only. Arrows that follow from others are left out.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/architecture.md"
OUTSIDE = {"__init__", "__main__", "exports", "version"}  # not rooms: they show, run and name the package

Graph = Mapping[str, set[str]]


def rooms(package: Path) -> dict[str, set[str]]:
    """The rooms of a package, each with the rooms that it imports."""
    graph: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).with_suffix("")
        room = name.parts[0]
        if room not in OUTSIDE:
            others = imports(ast.parse(path.read_text(encoding="utf-8")), name.parts)
            graph.setdefault(room, set()).update(set(others) - OUTSIDE - {room})
    return graph


def imports(tree: ast.AST, name: tuple[str, ...]) -> Iterator[str]:
    """The rooms that a module imports from, by relative imports; `name` are the parts of its own name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = name[: len(name) - node.level]
            yield (base or tuple((node.module or node.names[0].name).split(".")))[0]


def direct(graph: Graph) -> Iterator[tuple[str, str]]:
    """The arrows that do not follow from others. Raises `ValueError` for rooms that import each other."""
    below = {room: reachable(graph, room) for room in graph}
    for room, others in sorted(graph.items()):
        if room in below[room]:
            raise ValueError(f"{room} imports itself by way of others; break the circle")
        for other in sorted(others):
            if not any(other in below[between] for between in others - {other}):
                yield room, other


def reachable(graph: Graph, room: str) -> set[str]:
    """All that a room imports, also by way of others."""
    found: set[str] = set()
    ahead = list(graph.get(room, ()))
    while ahead:
        other = ahead.pop()
        if other not in found:
            found.add(other)
            ahead += graph.get(other, ())
    return found


def picture(package: Path = ROOT / "sdxl") -> str:
    """The rooms as a mermaid block."""
    arrows = [f"    {room} --> {other}" for room, other in direct(rooms(package))]
    return "\n".join(["```mermaid", "flowchart TD", *arrows, "```"])


def with_block(text: str, name: str, block: str) -> str:
    """A page with the text between its two comments of a name replaced."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the page has no {begin} and {end}; put them where the block belongs")
    return f"{before}{begin}\n{block}\n{end}{after}"


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    current = with_block(text, "rooms", picture())
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(current, encoding="utf-8")
    elif text != current:
        print(f"{PAGE} shows other imports than the code has; run python scripts/draw_rooms.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
