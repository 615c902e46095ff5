"""What the service costs beside the model: how soon it answers, its memory, and the time it adds to a request.

    python scripts/proof_service.py        # or make proof-service; a quiet machine, a minute

Prints each measure with its bound; the exit status is 1 if one is missed.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

MODEL = ["--model", "miniature", "--dtype", "float32"]
GIVEN = {"prompt": "a red circle on a blue background", "seed": 1, "steps": 4}
ROUNDS = 40
LOAD = f"""
import time; began = time.perf_counter()
import sdxl
pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", offload="auto")
loaded = time.perf_counter() - began
times = []
for _ in range({ROUNDS}):
    began = time.perf_counter()
    image = pipe(**{GIVEN!r}, progress=False)[0]
    times.append(time.perf_counter() - began)
import statistics, hashlib
pages = int(open("/proc/self/statm").read().split()[1])
print(loaded, pages * 4096, statistics.median(times), hashlib.sha256(image.tobytes()).hexdigest())
"""


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {} if body is None else {"content-type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read()
    finally:
        connection.close()


def until(condition: Callable[[], bool]) -> float:
    """When a condition holds."""
    while not condition():
        time.sleep(0.01)
    return time.perf_counter()


def generate(port: int) -> tuple[float, float, bytes]:
    """Seconds from the request to its PNG, those of the job alone, and the PNG."""
    began = time.perf_counter()
    id = json.loads(ask(port, "POST", "/api/jobs", GIVEN)[1])["id"]
    ask(port, "GET", f"/api/jobs/{id}/events")
    image = ask(port, "GET", f"/api/files/{id}-1.png")[1]
    took = time.perf_counter() - began
    job = json.loads(ask(port, "GET", f"/api/jobs/{id}")[1])
    return took, job["ended"] - job["started"], image


def main() -> int:
    """The exit status."""
    alone = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True).stdout.split()
    loading, memory, call = float(alone[0]), int(alone[1]), float(alone[2])
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "sdxl", "serve", "--port", "0", *MODEL], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        found = re.search(r":(\d+);", process.stderr.readline())
        assert found is not None
        port = int(found[1])
        assert ask(port, "GET", "/health")[0] == 200
        healthy = time.perf_counter() - began
        early = "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
        ready = until(lambda: ask(port, "GET", "/ready")[0] == 200) - began
        times = [generate(port) for _ in range(ROUNDS)]
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        process.kill()
    measures = (
        ("seconds to the first answer of /health", healthy, 1.0),
        ("torch imported by then (1: yes)", float(not early), 0.0),
        (f"seconds to /ready beyond import and load ({loading:.2f})", ready - loading, 2.0),
        (f"MB beside the model ({memory / 1e6:.0f})", (resident - memory) / 1e6, 30.0),
        (
            f"ms that a request adds to its call ({1000 * call:.0f}), at the median of {ROUNDS}",
            1000 * (median(took for took, _, _ in times) - call),
            20.0,
        ),
        ("ms of them outside of the job", 1000 * median(took - own for took, own, _ in times), 20.0),
        ("exit status", float(process.returncode), 0.0),
    )
    for name, value, most in measures:
        print(f"{name}: {value:.2f}, expected at most {most:g}{'' if value <= most else '  MISSED'}")
    return int(any(value > most for _, value, most in measures))


if __name__ == "__main__":
    sys.exit(main())
