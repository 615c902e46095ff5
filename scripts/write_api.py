"""Write the API reference, a page for each package, from the docstrings of its public names.

    python scripts/write_api.py           # or: make docs
    python scripts/write_api.py --check   # exit with 1 if a page is not current

The pages are the same on every machine: they hold signatures as the code has them, and no values that a run computes.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, get_origin

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs/api"
TOP = "sdxl"  # what it has is described there alone
PACKAGES = (
    TOP,
    *(f"sdxl.{room}" for room in ("pipeline", "adapters", "images", "jobs", "sampling", "text", "models")),
    *(f"sdxl.{room}" for room in ("weights", "runtime", "training")),
)
WIDTH = 110  # of a signature on one line
_CALLED = ("__call__", "__iter__", "__getitem__", "__len__")  # methods that are shown though their names are not public


@dataclass(frozen=True)
class Public:
    """A public name of a package, and the module that defines it."""

    name: str
    module: ModuleType

    @property
    def value(self) -> Any:
        """The object."""
        return getattr(self.module, self.name)

    @property
    def source(self) -> str:
        """A link from a page to the file."""
        path = Path(str(self.module.__file__)).resolve().relative_to(ROOT).as_posix()
        return f"[{path}](../../{path})"

    @cached_property
    def doc(self) -> str:
        """Its docstring; that of a constant is the text behind its assignment."""
        if is_class(self.value) or inspect.isroutine(self.value):
            return own_doc(self.value)
        body = ast.parse(inspect.getsource(self.module)).body
        for node, after in pairwise(body):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if self.name in names and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                return inspect.cleandoc(str(after.value.value))
        return ""


def own_doc(value: Any) -> str:
    """The docstring that the code states; a dataclass without one gets its signature from Python."""
    text = inspect.cleandoc(value.__doc__ or "")
    is_made = dataclasses.is_dataclass(value) and text.startswith(f"{getattr(value, '__name__', '')}(")
    return "" if is_made else text


def public_names(package: str) -> list[Public]:
    """The names of a package's `__all__`, each with its module, in the order of its `__init__`; errors last."""
    module = import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    found = [
        Public(alias.name, import_module("." * node.level + (node.module or ""), package))
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
        if alias.name in module.__all__ and alias.asname == alias.name
    ]
    return sorted((each for each in found if not each.name.startswith("_")), key=_is_error)


def is_class(value: object) -> bool:
    """Whether it is a class, and no alias such as `list[int]`, which Python 3.10 takes for one."""
    return inspect.isclass(value) and get_origin(value) is None


def _is_error(each: Public) -> bool:
    return is_class(each.value) and issubclass(each.value, (Exception, Warning))


# ---- signatures


def signature(name: str, call: Callable[..., Any], skip_first: bool = False) -> str:
    """A call with its annotations and defaults, on several lines where one is too long."""
    given = inspect.signature(_as_written(call))
    parameters = [*given.parameters.values()][int(skip_first) :]
    returns = given.return_annotation
    ending = "" if returns is given.empty or returns is None else f" -> {_annotation(returns)}"
    if is_class(call):
        ending = ""
    return _folded(name, [*_parameters(parameters)], ending)


def _as_written(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function without the signature that it shows in notebooks, where the fields of `Request` are spelled out."""
    if not inspect.isfunction(call) or not hasattr(call, "__signature__"):
        return call
    plain = FunctionType(call.__code__, call.__globals__, call.__name__, call.__defaults__, call.__closure__)
    plain.__kwdefaults__, plain.__annotations__ = call.__kwdefaults__, call.__annotations__
    return plain


def _folded(name: str, parameters: list[str], ending: str = "") -> str:
    line = f"{name}({', '.join(parameters)}){ending}"
    if len(line) <= WIDTH:
        return line
    rows = [""]
    for each in parameters:
        if rows[-1] and len(rows[-1]) + len(each) > WIDTH:
            rows.append("")
        rows[-1] += f" {each}," if rows[-1] else f"    {each},"
    return "\n".join([f"{name}(", *rows, f"){ending}"])


def _parameters(parameters: list[inspect.Parameter]) -> Iterator[str]:
    stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    has_star = False
    for each in parameters:
        has_star |= each.kind is inspect.Parameter.VAR_POSITIONAL
        if each.kind is inspect.Parameter.KEYWORD_ONLY and not has_star:
            has_star = True
            yield "*"
        text = stars.get(each.kind, "") + each.name
        if each.annotation is not each.empty:
            text += f": {_annotation(each.annotation)}"
        if each.default is not each.empty:
            text += f" = {_default(each.default)}" if ":" in text else f"={_default(each.default)}"
        yield text


def _annotation(value: Any) -> str:
    return value if isinstance(value, str) else getattr(value, "__name__", str(value))


def _default(value: Any) -> str:
    """A default as one would write it."""
    text = getattr(value, "__name__", None) if callable(value) else repr(value)
    return "..." if text is None or " at 0x" in text or text.startswith("<") else text


# ---- pages


def page(package: str) -> str:
    """The page of a package."""
    names = public_names(package)
    elsewhere = [] if package == TOP else [each.name for each in public_names(TOP) if each in names]
    lines = [f"# {package}", "", inspect.cleandoc(import_module(package).__doc__ or ""), ""]
    links = [f"[`{each.name}`]({TOP + '.md' * (each.name in elsewhere)}#{each.name.lower()})" for each in names]
    lines.append(" ·\n".join(link.replace(f"({TOP}#", "(#") for link in links))
    for each in names:
        if each.name not in elsewhere:
            lines += ["", f"## {each.name}", "", *_entry(each)]
    return _clean(lines)


def _entry(each: Public) -> Iterator[str]:
    value = each.value
    if is_class(value):
        yield from _class(each, value)
    elif inspect.isroutine(value):
        yield from [*_code(signature(each.name, value)), "", each.doc]
    else:
        yield from _constant(each)
    yield from ["", each.source]


def _class(each: Public, value: type) -> Iterator[str]:
    bases = [base.__name__ for base in value.__bases__ if base is not object]
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    if _is_error(each):
        yield from [f"`{each.name}({', '.join(bases)})`", "", each.doc]
        return
    options = [field for field in fields if "option" in field.metadata]
    if options:
        yield from [each.doc, "", "| argument | default | |", "|---|---|---|"]
        for field in options:
            default = "required" if field.default is dataclasses.MISSING else f"`{_default(field.default)}`"
            yield f"| `{field.name}` | {default} | {_cell(field.metadata['option'].help)} |"
    elif fields:
        parameters = [_field(field) for field in fields if field.init]
        yield from [*_code(_folded(f"class {each.name}", parameters)), "", each.doc]
    else:
        yield from [*_code(_constructor(each.name, value)), "", each.doc]
    yield from _members(value)


def _field(field: dataclasses.Field[Any]) -> str:
    has_default = field.default is not dataclasses.MISSING
    made = field.default_factory is not dataclasses.MISSING
    return f"{field.name}: {_annotation(field.type)}" + (
        f" = {_default(field.default)}" if has_default else " = ..." if made else ""
    )


def _constructor(name: str, value: type) -> str:
    if getattr(value, "_is_protocol", False):
        return f"class {name}(Protocol)"
    own = value.__dict__.get("__init__")
    return signature(f"class {name}", own, skip_first=True).split(" -> ")[0] if own else f"class {name}"


def _members(value: type) -> Iterator[str]:
    """The public methods and properties that the class itself defines, and that have docstrings."""
    for name, member in vars(value).items():
        if name.startswith("_") and name not in _CALLED:
            continue
        plain = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        is_property = isinstance(member, (property, cached_property))
        if not (is_property or inspect.isfunction(plain)) or not (plain.__doc__ or "").strip():
            continue
        if is_property:
            get = member.fget if isinstance(member, property) else member.func
            returns = inspect.signature(get).return_annotation if get is not None else ""
            shown = f"{value.__name__}.{name}: {_annotation(returns)}"
        else:
            called = value.__name__ if name == "__call__" else f"{value.__name__}.{name}"
            receiver = f"{called}.__call__" if name == "__call__" else called
            shown = signature(receiver, plain, skip_first=not isinstance(member, staticmethod))
        yield from ["", *_code(shown), "", own_doc(plain)]


def _constant(each: Public) -> Iterator[str]:
    value, kind = each.value, type(each.value).__name__
    yield each.doc or f"`{each.name}` is a `{kind}`."
    if isinstance(value, Mapping):
        yield from ["", "Its entries: " + ", ".join(f"`{key}`" for key in value)]


def _code(text: str) -> list[str]:
    return ["```python", text, "```"]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _clean(lines: list[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def index() -> str:
    """The page that lists the packages."""
    lines = [
        "# API reference",
        "",
        "Made by `make docs` from the docstrings. Names that are not here may change without notice.",
        "",
        "| package | public names |",
        "|---|---|",
    ]
    for package in PACKAGES:
        names = ", ".join(f"`{each.name}`" for each in public_names(package))
        lines.append(f"| [`{package}`]({package}.md) | {names} |")
    return _clean(lines)


def pages() -> dict[Path, str]:
    """All pages with their texts."""
    return {PAGES / "README.md": index()} | {PAGES / f"{package}.md": page(package) for package in PACKAGES}


def stale() -> list[Path]:
    """The pages that are not current, and those of no package."""
    current = pages()
    changed = [path for path, text in current.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    return changed + [path for path in sorted(PAGES.glob("*.md")) if path not in current]


def main() -> int:
    """The exit status."""
    old = stale()
    if "--check" in sys.argv[1:]:
        for path in old:
            print(f"{path.relative_to(ROOT)} is not current; run make docs")
        return int(bool(old))
    current = pages()
    PAGES.mkdir(parents=True, exist_ok=True)
    for path in old:
        if path in current:
            path.write_text(current[path], encoding="utf-8")
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
