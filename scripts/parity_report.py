"""Write docs/parity.md: the error against each reference that the tests measure, case by case.

    python scripts/parity_report.py

The tests themselves run, and each error that one of them compares with its bound is noted: max|ours - reference| /
max|reference| in float32 on a CPU, tiny models with random weights.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/parity.md"
FILES = (
    "models/test_models.py",
    "test_parity.py",
    "test_parity_tasks.py",
    "test_parity_control.py",
    "test_parity_lllite.py",
)


class Errors:
    """A plugin of pytest: the largest error of each test that measures one, under the name of its function and the
    texts of its parameters.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], float] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> None:
        if (measure := pyfuncitem.funcargs.get("error")) is None:
            return
        row = stage(pyfuncitem.path, pyfuncitem.originalname), case(pyfuncitem)

        def noted(ours: torch.Tensor, reference: torch.Tensor) -> Any:
            value = measure(ours, reference)
            if value < 1e-3:  # a larger one is a difference that a test asks for
                self.rows[row] = max(self.rows.get(row, 0.0), value)
            return value

        pyfuncitem.funcargs["error"] = noted


def stage(path: Path, name: str) -> str:
    """What a test is about, from the names of its file and its function."""
    return f"{path.stem.removeprefix('test_')}: {name.removeprefix('test_').replace('_', ' ')}"


def case(test: pytest.Function) -> str:
    """The parameters of a test; its own name for them where one of them is a dict."""
    spec = getattr(test, "callspec", None)
    values: dict[str, Any] = spec.params if spec else {}
    if spec and any(isinstance(value, dict) for value in values.values()):
        return str(spec.id)
    return ", ".join(value if isinstance(value, str) else f"{name} {words(value)}" for name, value in values.items())


def words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def main() -> int:
    """The exit status of the tests; the page is written only if they pass."""
    os.chdir(ROOT)
    errors = Errors()
    status = int(pytest.main([f"tests/{name}" for name in FILES], plugins=[errors]))
    if status == 0:
        PAGE.write_text(page(errors.rows))
    return status


def page(rows: dict[tuple[str, str], float]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("diffusers", "transformers", "torch"))
    lines = [
        "# Parity",
        "",
        "Written by `python scripts/parity_report.py`: max|ours - reference| / max|reference|, float32, CPU, tiny",
        "models with random weights; the largest of each test. The tests ask for 1e-5 of every network and 1e-4 of an",
        "image's final latents. The full-size base UNet and bigG: [proofs/parity.log](proofs/parity.log).",
        "",
        f"{versions}, {platform.machine()}, {torch.get_num_threads()} threads, {time.strftime('%Y-%m-%d')}",
        "",
        "| test | case | error |",
        "|---|---|---|",
        *(f"| {test} | {case} | {value:.1e} |" for (test, case), value in rows.items()),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
