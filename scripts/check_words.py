"""Find the words that this project does not use, in its pages and in the comments and texts of its code.

    python scripts/check_words.py               # all files
    python scripts/check_words.py README.md     # some

Prints file:line, the word, and what to say in its place; exits with 1 if it found one. Code, quotations in backticks or
quotes, targets of links, and the CHANGELOG's table of old names are not looked at.
"""

from __future__ import annotations

import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/*.md",
    "docs/benchmarks/*.md",
    "weights/**/*.md",
)
GENERATED = {"docs/parity.md"}  # by scripts/parity_report.py
MEANT = {("sdxl/miniature/scenes.py", "picture")}  # in captions that the miniature was trained on

# patterns, without regard to case, and what to say
WORDS = {
    r"told|untold": "given, reported, conditioned on",
    r"anew": "again",
    r"heard|silent": "the name of what is passed or left out",
    r"whoever": "the caller, the process, the user",
    r"of (no )?use": "what does or does not work",
    r"pictures?(?!\.png)": "image",
    r"(is|be|are|begin|computed) so(?=[.,;:)])": "what it is",
    r"fetch(ed)? (it|them|again|SDXL's|the (file|model)|its config)|(is|are|be) fetched (again|and)": "download",
}
PATTERN = re.compile("|".join(rf"(?P<w{n}>\b({word})\b)" for n, word in enumerate(WORDS)), re.IGNORECASE)
QUOTED = re.compile(r"``[^`]+``|`[^`\n]+`|\"[^\"\n]*\"|“[^”\n]*”|\]\([^)\s]*\)|https?://\S+|<!--.*?-->")
FIELD = re.compile(r"\{[^{}]*\}")  # of an f-string
PREFIX = re.compile(r"^(?P<flags>[A-Za-z]*)(?P<quotes>\"\"\"|'''|\"|')")


def blank(match: re.Match[str]) -> str:
    """As long as what it replaces, so that lines stay where they are."""
    return re.sub(r"[^\n]", " ", match[0])


def page_lines(text: str) -> Iterator[tuple[int, str]]:
    """The prose of a Markdown page: not code, not quotations, not a table of old and new names."""
    in_code, in_names = False, False
    for number, line in enumerate(text.splitlines(), 1):
        in_code ^= line.startswith("```")
        in_names = line.startswith("|") and (in_names or line.lower().startswith("| old |"))
        if not in_code and not in_names:
            yield number, QUOTED.sub(blank, line)


def code_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The comments of a Python file and its texts of several words."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            text = token.string
            if token.type == tokenize.STRING:
                opening = PREFIX.match(text)
                assert opening is not None
                text = text[opening.end() : -len(opening["quotes"])]
                if "f" in opening["flags"].lower():
                    text = FIELD.sub(lambda match: "_" * len(match[0]), text)
            elif token.type not in (tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", None)):
                continue
            if token.type == tokenize.COMMENT or " " in text.strip():
                yield from enumerate(QUOTED.sub(blank, text).splitlines(), token.start[0])


def find(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, word, and what to say in its place."""
    lines = code_lines(path) if path.suffix == ".py" else page_lines(path.read_text(encoding="utf-8"))
    for number, line in lines:
        for match in PATTERN.finditer(line):
            kind = next(n for n in range(len(WORDS)) if match[f"w{n}"] is not None)
            yield number, match[0], list(WORDS.values())[kind]


def files() -> list[Path]:
    """All that is looked at."""
    pages = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    kept = [path for path in pages if str(path.relative_to(ROOT)) not in GENERATED]
    return [*kept, *sorted((ROOT / "sdxl").rglob("*.py"))]


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    count = 0
    for path in [Path(name) for name in arguments] or files():
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        for number, word, better in find(path):
            if (shown.as_posix(), word) not in MEANT:
                print(f"{shown}:{number}: {word!r}; say: {better}")
                count += 1
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
