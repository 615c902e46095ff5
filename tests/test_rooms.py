"""The import rule: which room of the package may import which (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sdxl

PACKAGE = Path(sdxl.__file__).parent
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "models": {"errors"},
    "sampling": {"errors", "models"},
    "text": {"errors", "models"},
    "weights": {"errors", "models", "sampling", "text"},
    "runtime": {"errors", "models"},
    "adapters": {"errors", "models", "sampling", "text", "weights"},
    "images": {"errors", "models", "sampling", "text", "weights"},
    "pipeline": {"errors", "models", "sampling", "text", "weights", "runtime", "images", "adapters"},
}
ALLOWED["jobs"] = ALLOWED["training"] = ALLOWED["miniature"] = ALLOWED["serve"] = {*ALLOWED["pipeline"], "pipeline"}
ALLOWED["cli"] = {*ALLOWED["jobs"], "jobs", "training", "miniature", "serve"}
EVERYWHERE = {"exports", "version"}
# `models` is open to these rooms in part: its data, and its networks as types
NETWORKS = {"unet", "vae", "clip", "conditioned"}


def broken_walls(package: Path) -> list[str]:
    """Each import that the rule forbids, with its file and line."""
    return [text for path in sorted(package.rglob("*.py")) for text in _broken(path.relative_to(package), path)]


def _broken(name: Path, path: Path) -> Iterator[str]:
    room = name.parts[0].removesuffix(".py")
    if room not in ALLOWED:  # __init__ and __main__, which import what they show or run
        return
    for line, module in _imports(name, ast.parse(path.read_text(encoding="utf-8"))):
        other = module.split(".")[0]
        if other != room and other not in ALLOWED[room] | EVERYWHERE:
            yield f"{name}:{line}: {room} imports {module}"
        if room == "sampling" and module.split(".")[0] == "models" and NETWORKS & set(module.split(".")):
            yield f"{name}:{line}: sampling knows no network, and imports {module}"


def _imports(name: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The modules of the package that a file imports, by their names below the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = name.parts[: len(name.parts) - node.level]
            for alias in node.names:
                yield node.lineno, ".".join((*base, *([node.module] if node.module else [alias.name])))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sdxl":
            yield node.lineno, node.module.partition(".")[2] or node.names[0].name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "sdxl":
                    yield node.lineno, alias.name.partition(".")[2] or "pipeline"


def test_no_room_imports_another_one_that_it_must_not() -> None:
    assert not broken_walls(PACKAGE)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/unet.py", "from ..runtime.scratch import scratch"),
        ("weights/hub.py", "from sdxl.miniature import exam"),
        ("sampling/denoiser.py", "from ..models.unet import UNet"),
        ("text/encode.py", "def f():\n    from ..weights import hub"),
        ("runtime/memory.py", "import sdxl.pipeline.plan"),
        ("pipeline/loop.py", "from .. import cli"),
    ],
)
def test_a_broken_wall_is_found(file: str, line: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(line + "\n")
    assert len(broken_walls(tmp_path)) == 1


def test_the_package_itself_holds_few_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 5
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == ALLOWED.keys() - {"errors"}


@pytest.mark.parametrize("room", ["", *sorted(ALLOWED.keys() - {"errors", "cli", "miniature", "serve"})])
def test_public_names_are_there_for_readers_and_type_checkers(room: str) -> None:
    """`exports` and the imports for type checkers list the same names, and each of them can be imported."""
    path = PACKAGE / room / "__init__.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom) and node.module]
    typed = {alias.name for node in imports for alias in node.names}
    module = __import__(f"sdxl.{room}" if room else "sdxl", fromlist=["x"])
    assert typed | ({"__version__"} if not room else set()) == set(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)


def test_packages_are_attributes_whatever_is_imported() -> None:
    code = "import sdxl; print([getattr(sdxl, name).__name__ for name in ('errors', 'text')], *dir(sdxl))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("['sdxl.errors', 'sdxl.text']")
    assert {"Pipeline", "models", "training"} <= {*printed.split()}


def test_a_packed_program_that_lacks_the_samplers_says_what_packs_them() -> None:
    """No import statement names their modules, so a packager such as PyInstaller does not see them."""
    code = "import pkgutil; pkgutil.iter_modules = lambda path: []; import sdxl.sampling.samplers"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr
    assert printed.rstrip().endswith("left them out. Try --collect-all sdxl")


def test_a_wrong_name_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(AttributeError, match="module 'sdxl' has no attribute 'Pipelin'") as caught:
        sdxl.Pipelin  # type: ignore[attr-defined] # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("Pipelin", sdxl)
