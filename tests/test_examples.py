"""The examples run as they are, each in a folder of its own."""

from __future__ import annotations

import re
import runpy
import warnings
from pathlib import Path

import pytest

from sdxl.errors import SDXLWarning

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
FOREIGN = ROOT / "examples/from_diffusers.py"


@pytest.mark.slow
@pytest.mark.parametrize("example", [each for each in EXAMPLES if each != FOREIGN], ids=lambda path: path.stem)
def test_an_example_runs(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [example.name])
    runpy.run_path(str(example), run_name="__main__")
    assert list(tmp_path.glob("*.png"))


@pytest.mark.slow
def test_the_first_lines_of_a_user_of_diffusers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each works, or gives the sentence that says what works; and each name of equal meaning gives one warning."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SDXLWarning)
        runpy.run_path(str(FOREIGN), run_name="__main__")
    text = FOREIGN.read_text(encoding="utf-8")
    output = capsys.readouterr().out
    sentences = re.findall(r"^(?:UnsupportedError|ArgumentError): .*; .+$", output, re.MULTILINE)
    assert len(sentences) == text.count("with explained():") == 14
    said = [str(each.message) for each in caught if each.category is SDXLWarning]
    assert {each.filename for each in caught if each.category is SDXLWarning} == {str(FOREIGN)}
    assert len(said) == 9
    assert sum("num_inference_steps is steps here" in each for each in said) == 6
    assert {"circle-1.png", "circle-2.png", "repainted.png"} <= {path.name for path in tmp_path.iterdir()}


def test_examples_say_how_they_are_run() -> None:
    assert len(EXAMPLES) >= 8
    for example in EXAMPLES:
        assert f"python examples/{example.name}" in example.read_text(encoding="utf-8"), example
