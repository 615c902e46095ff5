"""The command line restarts itself with tcmalloc: as the same process, once, and only where that helps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sdxl
from sdxl.cli import allocator
from sdxl.cli.progress import reporting

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can do it")

SCRIPT = f"""#!{sys.executable}
import json, os, signal, sys
from sdxl.cli import allocator
from sdxl.cli.interrupts import install

allocator._GPUS = ()
install()
BEFORE
try:
    allocator.use_tcmalloc()
    with open("/proc/self/comm") as comm, open("/proc/self/maps") as maps:
        print(json.dumps({{
            "restarted": "libtcmalloc" in maps.read(),
            "process": os.getpid(),
            "arguments": sys.argv[1:],
            "name": comm.read().strip(),
            "inherited": {{name for name in os.environ if "SDXL_PROCESS" in name or name == "LD_PRELOAD"}} == set(),
            "blocked": [int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
            "text": sys.stdin.read(),
        }}))
except KeyboardInterrupt:
    print(json.dumps("interrupted"))
"""
INTERRUPTED = """
def execve(*given, _plain=os.execve):
    os.kill(os.getpid(), signal.SIGINT)
    _plain(*given)
os.execve = execve
"""
FORBIDDEN = """
def execve(*given):
    raise PermissionError
os.execve = execve
"""


def library() -> str:
    """Some library that does no harm where it is preloaded."""
    with open("/proc/self/maps", encoding="utf-8") as file:
        return next(path for line in file if "/libm.so" in (path := line.split()[-1]))


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with a library of tcmalloc's name."""
    (folder := tmp_path / "lib").mkdir()
    shutil.copy(library(), folder / "libtcmalloc_minimal.so.4")
    return folder


def run(folder: Path, *arguments: str, before: str = "", **variables: str) -> Any:
    """What a script says that restarts itself, if it is to."""
    script = folder.parent / "a-script"
    script.write_text(SCRIPT.replace("BEFORE", before))
    script.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "SDXL_NO_TCMALLOC")}
    environment |= {"PYTHONPATH": str(Path(sdxl.__file__).parents[1]), "LD_LIBRARY_PATH": str(folder), **variables}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([script, *arguments], env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
        shown, errors = process.communicate("from stdin")
    assert (process.returncode, errors) == (0, "")
    said = json.loads(shown)
    return said if said == "interrupted" else said | {"process": said["process"] == process.pid}


@pytest.mark.parametrize(
    "arguments", [["generate", "a  cat", "", "ü"], ["a red cat"], ["bench"], ["serve", "--port", "1"]]
)
def test_it_is_the_same_process(arguments: list[str], installed: Path) -> None:
    assert run(installed, *arguments) == {
        "restarted": True,
        "process": True,
        "arguments": arguments,
        "name": "a-script",
        "inherited": True,
        "blocked": [],
        "text": "from stdin",
    }


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        ([], {}),
        (["inspect", "a.png"], {}),
        (["--version"], {}),
        (["generate", "--help"], {}),
        (["generate", "x"], {"SDXL_NO_TCMALLOC": "1"}),
        (["generate", "x"], {"LD_LIBRARY_PATH": ""}),
    ],
)
def test_it_is_left_out(arguments: list[str], variables: dict[str, str], installed: Path) -> None:
    if "LD_LIBRARY_PATH" in variables and b"libtcmalloc" in Path("/etc/ld.so.cache").read_bytes():
        pytest.skip("tcmalloc is installed here")
    said = run(installed, *arguments, **variables)
    assert not said["restarted"]
    assert said["arguments"] == arguments


def test_a_preload_of_the_user_stays(installed: Path) -> None:
    said = run(installed, "generate", "x", LD_PRELOAD=library())
    assert not said["restarted"]
    assert not said["inherited"]


def test_a_library_for_another_machine_is_left_out(installed: Path) -> None:
    (installed / "libtcmalloc_minimal.so.4").write_text("no library")
    if b"libtcmalloc" not in Path("/etc/ld.so.cache").read_bytes():
        assert not run(installed, "generate", "x")["restarted"]
    shutil.copy(library(), installed / "libtcmalloc.so.4")
    assert run(installed, "generate", "x")["restarted"]


def test_a_gpu_has_an_allocator_of_its_own(installed: Path) -> None:
    assert not run(installed, "generate", "x", before="allocator._GPUS = ('/dev/null',)")["restarted"]


def test_a_program_that_is_not_a_file_goes_on(installed: Path) -> None:
    """Its text on stdin could not be read again."""
    code = "from sdxl.cli import allocator; allocator._GPUS = (); allocator.use_tcmalloc(); print('once')"
    environment = os.environ | {"LD_LIBRARY_PATH": str(installed), "PYTHONPATH": str(Path(sdxl.__file__).parents[1])}
    for command in ([sys.executable, "-c", code, "generate"], [sys.executable, "-", "generate"]):
        done = subprocess.run(command, env=environment, input=code, text=True, capture_output=True, check=True)
        assert (done.stdout, done.stderr) == ("once\n", "")


def test_an_interrupt_meanwhile_is_not_lost(installed: Path) -> None:
    assert run(installed, "generate", "x", before=INTERRUPTED) == "interrupted"


def test_a_system_that_forbids_it_is_no_error(installed: Path) -> None:
    said = run(installed, "generate", "x", before=FORBIDDEN)
    assert (said["arguments"], said["blocked"]) == (["generate", "x"], [])


def test_the_command_line_is_interrupted_as_ever(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts/proofs"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(installed))
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    from interrupt import interrupt

    assert interrupt(0.3).fault is None


def test_the_allocator_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tcmalloc", allocator.SYSTEM):
        monkeypatch.setattr(allocator, "in_use", lambda name=name: name)
        with reporting(verbose=1):
            assert f"allocator of memory: {name}\n" in capsys.readouterr().err
    with reporting():
        assert "allocator" not in capsys.readouterr().err
