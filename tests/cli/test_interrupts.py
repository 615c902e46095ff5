"""Ctrl-C: no import swallows it, the exit status is 130, and nothing is half written. `make proof-interrupt` tries 80
moments.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sdxl
from sdxl.weights import save

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


@pytest.mark.parametrize(
    ("code", "shown"),
    [(RUN, "acted on True\n"), (IN_DEL, "acted on\n"), (IN_WRITE, "acted on b'whole'\n")],
    ids=["import", "del", "write"],
)
def test_an_interrupt_waits_and_is_acted_on(code: str, shown: str, tmp_path: Path) -> None:
    (tmp_path / "swallows.py").write_text(SWALLOWS)
    path = os.pathsep.join([str(Path(sdxl.__file__).parents[1]), str(tmp_path)])
    command = [sys.executable, "-c", code]
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


def test_an_ignored_interrupt_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `nohup` and a shell's & set it."""
    from sdxl.cli import interrupts

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupts.install()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such first process")
@pytest.mark.parametrize("process", [1, 2])
def test_sigterm_interrupts_the_first_process_of_a_container(process: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system does nothing there by default. Any other process it ends."""
    from sdxl.cli import interrupts

    own, before = os.getpid(), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(os, "getpid", lambda: process)
    try:
        interrupts.install()
        if process == 1:
            with pytest.raises(KeyboardInterrupt):
                os.kill(own, signal.SIGTERM)
        interrupts.uninstall()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


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
