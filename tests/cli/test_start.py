"""The time of a short command: little more than that of torch's import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GENERATE = [sys.executable, "-m", "sdxl", "generate", "a red circle", "--model", "miniature", "--device", "cpu"]


def test_garbage_is_collected_again_when_torch_is_imported() -> None:
    code = (
        "import gc, sys; from sdxl.cli import garbage; garbage.import_whole('sdxl.pipeline.pipeline'); "
        "print(gc.isenabled(), gc.get_freeze_count() > 100_000, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "True"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the time of a child is asked of Linux")
def test_an_image_takes_little_more_than_torch(tmp_path: Path) -> None:
    """At most 1.6 times the processor's time; the shorter of two runs in turn, with modules already compiled."""
    commands = [sys.executable, "-c", "import torch"], [*GENERATE, "--quiet", "--output", str(tmp_path / "out.png")]
    seconds: tuple[list[float], list[float]] = [], []
    for _ in range(3):
        for command, taken in zip(commands, seconds, strict=True):
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as child:
                _, status, usage = os.wait4(child.pid, 0)
            assert status == 0
            taken.append(usage.ru_utime + usage.ru_stime)
    plain, ours = (min(taken[1:]) for taken in seconds)
    assert ours < 1.6 * plain
