"""The types that the package ships: what a checker, and so an editor, says of a program that uses them."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import sdxl
from sdxl.pipeline.request_arguments import RequestArguments

PROGRAM = """\
from typing import Any
from typing_extensions import assert_type
from PIL.Image import Image
from torch import Tensor
import sdxl
from sdxl import *
from sdxl.pipeline.result import Output

pipe: Pipeline = sdxl.Pipeline.from_pretrained("miniature")
settings: dict[str, Any] = {"steps": 3}
assert_type(pipe("a", **settings, progress=False)[0], Image)
assert_type(next(iter(pipe("a", loras=["x", ("y", 0.5)], hires={"scale": 2}))), Image)
assert_type(pipe("a", output="latent")[0], Tensor)
assert_type(pipe("a")[-2:], list[Image])
def any_output(output: Output | None) -> sdxl.Result:
    return pipe("a", output=output)
sdxl.training.attach_lora, sdxl.models.UNet
pipe.steps("a", seed=1).close()

sdxl.Pipelin  # wrong
sdxl.models.Unet  # wrong
from sdxl.sampling import SAMPLER  # wrong
pipe.unett  # wrong
pipe.vae  # right
pipe("a", stepz=3)  # wrong
pipe("a", sampler=3)  # wrong
pipe.steps("a", seed="one")  # wrong
pipe.encode_prompt("a", step=1)  # wrong
sdxl.Pipeline.from_pretrained("miniature", off_load="stage")  # wrong
"""


def test_the_arguments_of_a_call_are_the_fields_of_a_request() -> None:
    """Of the same types, as both files write them."""
    shown = {name: each.__forward_arg__ for name, each in RequestArguments.__annotations__.items()}
    assert {"prompt": "str | Sequence[str]", **shown} == {each.name: each.type for each in fields(sdxl.Request)}


def test_types_of_methods_can_be_read_when_a_program_runs() -> None:
    """As libraries do that call a function by its types."""
    pipeline = sdxl.Pipeline
    for method in (pipeline.__call__, pipeline.steps, pipeline.encode_prompt, pipeline.from_pretrained):
        hints = get_type_hints(method)
        assert hints.get("arguments", hints.get("diffusers_names")) is Any and "return" in hints
    assert inspect.signature(pipeline.__call__).parameters["sampler"].annotation == "str | None"


@pytest.mark.slow
def test_a_type_checker_finds_wrong_names_and_knows_what_a_call_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = pytest.importorskip("mypy.api")
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    monkeypatch.setenv("MYPYPATH", str(Path(sdxl.__file__).parents[1]))
    found, failures, _ = api.run(["--strict", f"--cache-dir={tmp_path / 'cache'}", str(file)])
    wrong = [number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")]
    assert sorted({int(line) for line in re.findall(r"program\.py:(\d+): error", found)}) == wrong, found
    assert not failures
