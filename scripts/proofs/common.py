"""What the proofs share: the machine, claims beside what is measured, and the measures.

A proof prints the machine first (`banner`), each claim with its measured value (`claim`), and the outcome (`finish`),
which is its exit status too. `make proof-NAME` runs `scripts/proofs/NAME.py` and keeps what it prints in docs/proofs.
To import this puts the folder of the scripts on the path, since proofs use what the scripts have.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

import sdxl
from sdxl.miniature.judge import agrees, look
from sdxl.miniature.scenes import SHAPES, Pixels, Scene

SCRIPTS = Path(__file__).resolve().parents[1]
sys.path.append(str(SCRIPTS))

_BEGAN = time.perf_counter()
_FAILURES: list[str] = []


# ---- what is printed -------------------------------------------------------------------------------------------------


def banner(what: str = "", dtype: str = "float32", packages: Sequence[str] = ()) -> None:
    """Print the machine, the versions of torch and of further packages, the date, the dtype, and what is proved."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *packages))
    print(
        f"{platform.platform()}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} "
        f"cores, Python {platform.python_version()}, {versions}, {time.strftime('%Y-%m-%d')}, {dtype}",
        flush=True,
    )
    if what:
        print(what, flush=True)


def claim(what: str, value: float, least: float = -math.inf, most: float = math.inf, unit: str = "") -> None:
    """Print a measured value beside its bounds, or whether something holds (`value` is a bool).

    The proof fails if it does not hold; a value that is NaN does not.
    """
    holds = value if isinstance(value, bool) else least <= value <= most
    shown = "" if isinstance(value, bool) else f": {value:.4g}{unit}"
    if least > -math.inf:
        shown += f" (at least {least:g}{unit})"
    if most < math.inf:
        shown += f" (at most {most:g}{unit})"
    print(f"{'ok  ' if holds else 'FAIL'} {what}{shown}", flush=True)
    if not holds:
        _FAILURES.append(what)


def finish() -> NoReturn:
    """Print the outcome and exit: 0 if all claims held."""
    failed = "FAILED: " + "; ".join(_FAILURES) if _FAILURES else "all held"
    print(f"{time.perf_counter() - _BEGAN:.0f} s in all; {failed}", flush=True)
    sys.exit(bool(_FAILURES))


# ---- images ----------------------------------------------------------------------------------------------------------


def psnr(a: Pixels, b: Pixels) -> float:
    """In dB, of images in 0..1; at most 120."""
    return float(-10 * np.log10(max(float(np.mean((a.astype(np.float64) - b) ** 2)), 1e-12)))


def equal(images: Sequence[Pixels], others: Sequence[Pixels]) -> bool:
    """Whether images are the same to the bit."""
    return all(np.array_equal(a, b) for a, b in zip(images, others, strict=True))


def right(images: Sequence[Pixels], scenes: Sequence[Scene], shapes: Sequence[str] = SHAPES) -> float:
    """The percentage of images that show their scenes entirely right; `shapes` are those that the judge knows."""
    return 100 * float(np.mean([agrees(look(p, shapes), scene) for p, scene in zip(images, scenes, strict=True)]))


def paint_prompts(
    pipe: sdxl.Pipeline,
    prompts: Sequence[str],
    batch: int,
    given: Callable[[slice], dict[str, Any]] = lambda part: {},
    seed: int = 0,
    **settings: Any,
) -> list[Pixels]:
    """An image (H, W, 3) of each prompt; image i has seed `seed` + i. `given` has what belongs to a slice of them."""
    images: list[Pixels] = []
    for first in range(0, len(prompts), batch):
        part = slice(first, first + batch)
        result = pipe(prompts[part], seed=seed + first, output="tensor", progress=False, **settings, **given(part))
        assert isinstance(result.images, torch.Tensor)
        images += list(result.images.permute(0, 2, 3, 1).cpu().numpy())
    return images


# ---- numbers ---------------------------------------------------------------------------------------------------------


def error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """max|a-b| / max|b|."""
    return float((ours - reference).abs().max() / reference.abs().max())


def memory(field: str = "VmHWM", process: int | str = "self") -> int:
    """Bytes of a process: VmHWM, the most that it has had, or VmRSS, what it has now."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


# ---- processes -------------------------------------------------------------------------------------------------------


@contextmanager
def checkpoints(*models: str) -> Iterator[Path]:
    """A temporary folder with MODEL.safetensors of full size and random weights for each model, 7 GB for the base."""
    with tempfile.TemporaryDirectory() as name:
        for model in models:
            path = Path(name) / f"{model}.safetensors"
            subprocess.run([sys.executable, SCRIPTS / "make_checkpoint.py", model, path], check=True)
        yield Path(name)


def child(script: str, *arguments: object) -> Any:
    """Run a script in a process of its own; what the last line of its output has in JSON."""
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def generate(*arguments: str) -> tuple[float, float]:
    """Run `python -m sdxl generate`; returns its seconds and its peak memory (RSS) in GB."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "sdxl", "generate", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, status
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9


def ask(
    port: int, method: str, path: str, body: Any = None, kind: str = "application/json"
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers and body of an answer of a service; a body that is no bytes is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        connection.request(method, path, data, {} if body is None else {"content-type": kind})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()
