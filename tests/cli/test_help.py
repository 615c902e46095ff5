"""The help: made from the tables and dataclasses, without torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest

import sdxl
from sdxl.sampling import SAMPLERS, SCHEDULES

LIGHT = """
import sys
{work}
heavy = {{"torch", "numpy", "PIL", "safetensors", "tokenizers", "huggingface_hub"}} & set(sys.modules)
print("heavy:", sorted(heavy))
"""
WORK = {
    "import": "import sdxl, sdxl.models, sdxl.sampling, sdxl.text, sdxl.weights, sdxl.runtime, sdxl.images, sdxl.jobs",
    "tables": "from sdxl.sampling import SAMPLERS, SCHEDULES\nfrom sdxl import Request, ModelRequest\nRequest('a cat')",
    "help": "from sdxl.cli.main import main\ntry:\n    main(['generate', '--help'])\nexcept SystemExit:\n    pass",
}


def run(work: str) -> str:
    command = [sys.executable, "-c", LIGHT.format(work=work)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={"COLUMNS": "500"}).stdout


@pytest.mark.parametrize("work", WORK)
def test_names_are_read_without_torch(work: str) -> None:
    assert run(WORK[work]).endswith("heavy: []\n")


def test_help_names_everything() -> None:
    shown = run(WORK["help"])
    assert all(name in shown for name in (*SAMPLERS, *SCHEDULES))
    options = [(each.name, each.metadata["option"]) for each in (*fields(sdxl.Request), *fields(sdxl.ModelRequest))]
    flags = [f"--{option.flag or name}".replace("_", "-") for name, option in options if option.flag is not None]
    assert all(f"\n  {flag} " in shown or f"\n  {flag}\n" in shown for flag in flags)
