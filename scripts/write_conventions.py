"""Write the table of conventions in docs/conventions.md from `Conventions` and the profiles.

python scripts/write_conventions.py           # or: make docs
python scripts/write_conventions.py --check   # exit with 1 if the table is not current
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from draw_rooms import with_block

from sdxl.pipeline.conventions import Conventions, Rule
from sdxl.pipeline.profiles import OURS, PROFILES

PAGE = Path(__file__).parents[1] / "docs/conventions.md"
NAME = "conventions"


def table() -> str:
    """A row for each member: what it is about, its value here with what it means, and those of the profiles."""
    return "\n".join(["| member | about | here | in the profiles |", "|---|---|---|---|", *_rows()])


def _rows() -> Iterator[str]:
    for each in fields(Conventions):
        rule: Rule = each.metadata["rule"]
        if rule.shown:
            yield f"| `{each.name}` | {rule.about} | {_meaning(rule, getattr(OURS, each.name))} | {_others(each)} |"


def _others(each: Field[Any]) -> str:
    """The other values, each with the profiles that have it; those of no profile stand at the end."""
    rule, own = each.metadata["rule"], getattr(OURS, each.name)
    holders: dict[Any, list[str]] = {}
    for name, profile in PROFILES.items():
        holders.setdefault(getattr(profile, each.name), []).append(name)
    values = [value for value in (*holders, *rule.words) if value != own]
    said = [
        f"{', '.join(holders[value])}: {_meaning(rule, value)}" if value in holders else _meaning(rule, value)
        for value in dict.fromkeys(values)
        if value in holders or rule.words[value]
    ]
    return "; ".join(said)


def _meaning(rule: Rule, value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    shown = "none" if value is None else str(value).lower() if isinstance(value, bool) else value
    words = rule.words.get(value)
    return f"`{shown}`, {words}" if words else f"`{shown}`"


def current(text: str) -> str:
    """The page with the present table."""
    return with_block(text, NAME, table())


def main() -> int:
    """The exit status."""
    text = PAGE.read_text(encoding="utf-8")
    page = current(text)
    if "--check" in sys.argv[1:]:
        if page != text:
            print(f"{PAGE} is not current; run make docs")
        return int(page != text)
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
