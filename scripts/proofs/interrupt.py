"""Proof: Ctrl-C at 40 moments of the start and 40 of the work ends the command line in time, with nothing half written.

make proof-interrupt
make proof-interrupt ARGS=MOMENTS
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import banner, claim, finish

LIMIT = 3.0  # seconds until the exit, at the start after the end of the imports
# says when it begins to act on Ctrl-C: until then it is Python's own, and a busy machine starts that slowly
COMMAND = """
import sys
import sdxl.__main__ as command
install = command.install
command.install = lambda: (install(), print(flush=True))
sys.exit(command.run())
"""
LONG = ["--model", "miniature", "--steps", "900", "--device", "cpu", "--dtype", "float32", "--seed", "1"]


@dataclass(frozen=True)
class Outcome:
    """How a process ended that got SIGINT: its status, its seconds after the signal, its stderr and its files."""

    status: int
    seconds: float
    errors: str
    files: list[str]

    @property
    def fault(self) -> str | None:
        """What is wrong with it, but for its seconds."""
        if self.status != 130:
            return f"status {self.status}"
        if "Traceback" in self.errors or "Exception ignored" in self.errors:
            return f"a traceback: {self.errors.splitlines()[-1]}"
        return f"files {self.files}" if self.files else None


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    """The command line, generating for a long time."""
    command = [sys.executable, "-c", COMMAND, "generate", "a red circle", *LONG, "--output", str(folder / "a.png")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *more], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def interrupt(moment: float, *more: str) -> Outcome:
    """Start the command line, and interrupt it so many seconds after it has begun to act on that."""
    with tempfile.TemporaryDirectory() as name:
        process = start(Path(name), *more)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        began = time.perf_counter()
        _, errors = process.communicate(timeout=120)
        return Outcome(process.returncode, time.perf_counter() - began, errors, sorted(os.listdir(name)))


def seconds_to_work() -> float:
    """Until the first step, when all imports have ended."""
    with tempfile.TemporaryDirectory() as name:
        process, began = start(Path(name)), time.perf_counter()
        assert process.stderr is not None
        while "steps: " not in process.stderr.readline():
            pass
        seconds = time.perf_counter() - began
        process.kill()
        process.communicate()
    return seconds


def main(moments: int) -> None:
    banner("the command line, interrupted")
    ready = seconds_to_work()
    print(f"the first step after {ready:.2f} s; {moments} moments each", flush=True)
    slowest = {"start": 0.0, "work": 0.0}
    for n in range(2 * moments):
        phase = "start" if n < moments else "work"
        share = (n % moments + 0.5) / moments
        moment = 0.05 + share * ready if phase == "start" else ready + 0.5 + share * 4
        outcome = interrupt(moment)
        late = outcome.seconds - max(ready - moment, 0)
        slowest[phase] = max(slowest[phase], late)
        fault = outcome.fault or (f"{late:.1f} s" if late > LIMIT else "")
        claim(f"{phase} {moment:.2f} s: exit after {outcome.seconds:.2f} s {fault}".rstrip(), not fault)
    print(f"slowest: {slowest['start']:.2f} s after the imports, {slowest['work']:.2f} s at work")
    finish()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
