"""Ctrl-C and a closed terminal: no import swallows them, the exit status is 130 or 129, and nothing is half written.
`make proof-interrupt` tries 80 moments.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sdxl
from sdxl.cli import interrupts
from sdxl.weights import save

SIGNALS = [name for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]
with_terminals = pytest.mark.skipif("SIGHUP" not in SIGNALS, reason="this system closes no terminals by a signal")

# a module whose import swallows an interrupt, as torch's does, and is interrupted
SWALLOWS = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)
except BaseException:
    print("swallowed")
whole = True
"""
RUN = """
import signal, sys, time
from sdxl.cli.interrupts import install
install()
try:
    import swallows
    assert swallows.whole
    time.sleep(5)
except KeyboardInterrupt:
    print("acted on", swallows.whole)
"""
# an interrupt where Python cannot raise it
IN_DEL = """
import os, signal, time
from sdxl.cli.interrupts import install

class Value:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

install()
try:
    del Value
    time.sleep(5)
except KeyboardInterrupt:
    print("acted on")
""".replace("del Value", "Value()")
# an interrupt while a file is written
IN_WRITE = """
import os, signal, time
from pathlib import Path
from sdxl.cli.interrupts import install
from sdxl.images import output

def replace(source, target):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    rename(source, target)

rename, output.os.replace = os.replace, replace
install()
try:
    output.write_file(b"whole", Path("a.png"))
    time.sleep(5)
except KeyboardInterrupt:
    print("acted on", Path("a.png").read_bytes())
"""


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize(
    ("code", "shown"),
    [(RUN, "acted on True\n"), (IN_DEL, "acted on\n"), (IN_WRITE, "acted on b'whole'\n")],
    ids=["import", "del", "write"],
)
def test_an_interrupt_waits_and_is_acted_on(code: str, shown: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "swallows.py").write_text(SWALLOWS.replace("SIGINT", name))
    path = os.pathsep.join([str(Path(sdxl.__file__).parents[1]), str(tmp_path)])
    command = [sys.executable, "-c", code.replace("SIGINT", name)]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (shown, "")


@pytest.mark.parametrize("moment", [0.15, 0.8, pytest.param(4.0, marks=pytest.mark.slow)])
def test_the_command_line_ends_with_130_and_leaves_nothing(moment: float) -> None:
    from interrupt import interrupt

    outcome = interrupt(moment)
    assert outcome.fault is None
    assert outcome.errors.endswith("interrupted\n")


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What handles signals is the same afterwards."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(interrupts, "_last", signal.SIGINT)
    numbers = [getattr(signal, name) for name in SIGNALS]
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_an_ignored_interrupt_stays_ignored() -> None:
    """As `nohup` and a shell's & set it."""
    numbers = [getattr(signal, name) for name in SIGNALS]
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    interrupts.install()
    interrupts.on_hangup(lambda: pytest.fail("it is acted on"))
    assert [signal.getsignal(number) for number in numbers] == [signal.SIG_IGN] * len(numbers)


@with_terminals
@pytest.mark.usefixtures("handlers")
def test_a_terminal_is_closed_once() -> None:
    """Shells send SIGHUP again at their end: it must not end what the first one has begun."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    interrupts.install()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGHUP)
    assert interrupts.status() == 129
    calls = list[int]()
    interrupts.on_hangup(lambda: calls.append(1))
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGHUP)
    assert calls == [1]


@pytest.mark.slow
@with_terminals
def test_a_job_whose_terminal_is_closed_keeps_its_images(tmp_path: Path) -> None:
    import fcntl
    import pty
    import termios

    lines = [{"prompt": "a red circle", "steps": 2, "seed": 1}, {"prompt": "a red circle", "steps": 900, "seed": 2}]
    (tmp_path / "job.jsonl").write_text("\n".join(map(json.dumps, lines)))
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "sdxl", "generate", "--model", "miniature", "--batch", str(tmp_path / "job.jsonl")]
    process = subprocess.Popen(
        [*command, "--output-dir", str(tmp_path / "out")],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    journal = tmp_path / "out/job/done.jsonl"
    while not journal.exists() or not journal.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    os.close(main)
    assert process.wait(60) == 129
    assert sorted(os.listdir(tmp_path / "out")) == ["00001.png", "job"]
    assert len(journal.read_text().splitlines()) == 1
    assert sorted(os.listdir(tmp_path / "out/job")) == ["claims", "done.jsonl", "plan.json"]
    assert sdxl.read_parameters(tmp_path / "out/00001.png")["request"]["seed"] == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such first process")
@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("process", [1, 2])
def test_sigterm_interrupts_the_first_process_of_a_container(process: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system does nothing there by default. Any other process it ends."""
    monkeypatch.setattr(os, "getpid", lambda: process)
    interrupts.install()
    if process == 1:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert interrupts.status() == 143
    interrupts.uninstall()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("target", ["folder", "single.safetensors"])
def test_an_interrupted_conversion_leaves_nothing(
    target: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    plain, calls = safetensors.torch.save_file, []

    def interrupted(*arguments: Any) -> None:
        plain(*arguments)
        calls.append(arguments)
        if len(calls) == (1 if target.endswith("s") else 3):
            raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save.convert(tiny_folder, tmp_path / target)
    assert not list(tmp_path.iterdir())
