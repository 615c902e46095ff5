"""What is printed: nothing foreign is obeyed by a terminal, and what cannot be printed is no reason to fail."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import sdxl
from sdxl.cli import console
from sdxl.cli.main import main
from sdxl.images import encode_image

HOSTILE = "\x1b]0;owned\x07\x9b2J\r\n\u202egnp\udce9\x7f"
MODEL = ["--model", "miniature", "--dtype", "float32", "--device", "cpu", "--steps", "1"]


def test_controls_are_escaped_and_letters_are_not() -> None:
    assert console.printable(HOSTILE) == r"\x1b]0;owned\x07\x9b2J\r\n\u202egnp\udce9\x7f"
    assert console.printable("a red cat é 猫 👨\u200d👩") == "a red cat é 猫 👨\u200d👩"
    assert json.loads(console.as_json({"file": HOSTILE})) == {"file": HOSTILE}
    assert console.printable(console.as_json(HOSTILE)) == console.as_json(HOSTILE)


class Broken(io.TextIOWrapper):
    """A stream that fails when it is written."""

    def __init__(self, error: OSError) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (None, "error: stdout cannot be written: it is closed; all else is done\n"),
        (Broken(OSError(28, "No space left on device")), "No space left on device; all else is done\n"),
        (Broken(BrokenPipeError()), ""),
        (io.TextIOWrapper(io.BytesIO(), encoding="ascii"), "error: stdout is in ascii, which lacks some characters"),
    ],
    ids=["closed", "full", "pipe", "ascii"],
)
def test_what_cannot_be_printed(
    stream: Any, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    assert not console.show("é.png")
    assert said in capsys.readouterr().err
    if stream is not None and stream.encoding == "ascii":
        assert stream.buffer.getvalue() == b"\\xe9.png\n"


def test_the_reader_of_a_pipe_leaves_on_windows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for platform in ("linux", "win32"):
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(sys, "stdout", Broken(OSError(22, "Invalid argument")))
        assert not console.show("a.png")
        said.append(capsys.readouterr().err)
    assert said == ["error: stdout cannot be written: Invalid argument; all else is done\n", ""]


def test_a_closed_stderr_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (None, Broken(OSError(28, "full"))):
        monkeypatch.setattr(sys, "stderr", stream)
        console.note("error")
        console.draw("3 of 4")


@pytest.fixture
def hostile_png(tmp_path: Path) -> Path:
    """An image whose name, prompt and model would be obeyed by a terminal."""
    request = {"prompt": HOSTILE, "seed": 1, "steps": 1, "sampler": "euler", "schedule": "leading"}
    parameters = {"version": HOSTILE, "request": request | {"guidance_scale": 1}, "model": {"model": HOSTILE}}
    path = tmp_path / "\x1b[2J.png"
    path.write_bytes(encode_image(Image.new("RGB", (8, 8)), parameters, "PNG"))
    return path


def test_no_command_prints_what_a_terminal_obeys(hostile_png: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = hostile_png.with_suffix(".jsonl")
    job.write_text(json.dumps({"prompt": "a", "sampler": HOSTILE}) + "\n" + json.dumps({HOSTILE: 1}) + "\n{\x1b[2J")
    out = str(hostile_png.parent / "\x1bout")
    for arguments in (
        ["inspect", str(hostile_png)],
        ["inspect", "--json", str(hostile_png)],
        ["inspect", str(job)],
        ["convert", str(job), out],
        ["generate", "--from", str(hostile_png), "--output", out + ".png"],
        ["generate", "cat", "--output", str(hostile_png.parent)],
        ["generate", "cat", "--sampler", HOSTILE],
        ["generate", "cat", "--image", str(job)],
        ["generate", "--batch", str(job), "--output-dir", out],
        [HOSTILE],
        ["generate", f"--{HOSTILE}"],
        ["generate", "--width", HOSTILE],
    ):
        with suppress(SystemExit):
            main(arguments)
        shown = capfd.readouterr()
        text = shown.out + shown.err
        assert text
        assert text.isascii() or text.replace("\n", "").isprintable(), arguments
        assert not set(text) & set("\x1b\x07\x9b\r\u202e\x7f"), arguments


def run(flags: list[str], folder: Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "sdxl", "generate", "a red circle", *MODEL, "--num-images", "3", "--seed", "1"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | options.pop("env", {})
    return subprocess.run([*command, *flags], cwd=folder, env=environment, check=False, **options)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["pipe", "closed", "full", "ascii"])
def test_all_images_are_saved_whatever_becomes_of_stdout(case: str, tmp_path: Path) -> None:
    out: Any = subprocess.DEVNULL
    options: dict[str, Any] = {}
    if case == "pipe":
        read, out = os.pipe()
        os.close(read)
    elif case == "full":
        out = os.open("/dev/full", os.O_WRONLY)
    elif case == "closed":
        options["preexec_fn"] = lambda: os.close(1)
    else:
        options["env"] = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = run(["--quiet", "--output", "é.png"], tmp_path, stdout=out, stderr=subprocess.PIPE, **options)
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == (case != "pipe"), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["é-1.png", "é-2.png", "é-3.png"]


def test_a_warning_is_printed_once() -> None:
    """Also where a filter of warnings has changed since: Python forgets what it has shown then."""
    from sdxl.cli.main import _warning_format

    line = _warning_format()
    printed = [line(sdxl.SDXLWarning(text), sdxl.SDXLWarning, "file", 1) for text in ("a", "b", "a")]
    assert printed == ["warning: a\n", "warning: b\n", ""]
