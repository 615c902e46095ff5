"""Proof: what the service costs beside the model: how soon it answers, its memory, and the time it adds to a request.

    make proof-service        # a quiet machine, a minute

Where other work runs too, times of the clock say more of that than of the service: the processor's time is what it
costs itself.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from common import ask, banner, claim, finish, memory

MODEL = ["--model", "miniature", "--dtype", "float32"]
GIVEN = {"prompt": "a red circle on a blue background", "seed": 1, "steps": 4}
ROUNDS = 40
LOAD = f"""
import time; began = time.perf_counter()
import sdxl
pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", offload="auto")
loaded = time.perf_counter() - began
for _ in range({ROUNDS}):
    pipe(**{GIVEN!r}, progress=False)
print(loaded, int(open("/proc/self/statm").read().split()[1]) * 4096)
"""


def until(condition: Callable[[], bool]) -> float:
    """When a condition holds."""
    while not condition():
        time.sleep(0.01)
    return time.perf_counter()


def generate(port: int) -> float:
    """Seconds from a request to its PNG."""
    began = time.perf_counter()
    id = json.loads(ask(port, "POST", "/api/jobs", GIVEN)[2])["id"]
    ask(port, "GET", f"/api/jobs/{id}/events")
    assert ask(port, "GET", f"/api/files/{id}-1.png")[0] == 200
    return time.perf_counter() - began


def overhead() -> tuple[float, float, float]:
    """Seconds of a request beyond the call that it leads to, and beyond the same call without a service; and the
    processor's seconds of the latter, of client, server and worker. Medians of pairs, one after the other in one
    process, so that they suffer alike from what else the machine does.
    """
    from sdxl import ModelRequest, Pipeline
    from sdxl.serve.catalog import make_catalog
    from sdxl.serve.run import Process, listen
    from sdxl.serve.service import make_service
    from sdxl.serve.settings import Settings

    pipes, inside = list[Pipeline](), list[float]()

    class Timed(Pipeline):
        def __call__(self, *texts: Any, **arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return super().__call__(*texts, **arguments)
            finally:
                inside.append(time.perf_counter() - began)

    def load(request: ModelRequest) -> Pipeline:
        pipes.append(Timed.from_request(request))
        return pipes[0]

    settings = Settings(port=0)
    service = make_service(settings, make_catalog([ModelRequest("miniature", dtype="float32", offload="auto")]), load)
    listener = listen(settings)
    process = Process(service, listener)
    thread = threading.Thread(target=process.run)
    thread.start()
    until(lambda: service.engine.is_ready)
    port = listener.getsockname()[1]
    beyond_call, beyond_image, computing = [], [], []
    for _ in range(ROUNDS):
        before = time.process_time()
        took = generate(port)
        between = time.process_time()
        beyond_call.append(took - inside[-1])
        pipes[0](**GIVEN, progress=False)
        beyond_image.append(took - inside[-1])
        computing.append(2 * between - before - time.process_time())
    process.close()
    thread.join()
    return median(beyond_call), median(beyond_image), median(computing)


def main() -> None:
    banner(f"sdxl serve; niceness {os.nice(0)}")
    alone = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True).stdout.split()
    loading, model = float(alone[0]), int(alone[1])
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
        for _ in range(ROUNDS):
            generate(port)
        resident = memory("VmRSS", process.pid)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        process.kill()
    call, image, computing = overhead()
    claim("seconds to the first answer of /health", healthy, most=1)
    claim("torch is not imported by then", early)
    claim(f"seconds to /ready beyond import and load ({loading:.2f})", ready - loading, most=2)
    claim(f"MB beside the model ({model / 1e6:.0f})", (resident - model) / 1e6, most=30)
    claim("ms of a request outside of the call of the pipeline, median", 1000 * call, most=20)
    claim("ms of a request beyond the same image without a service, median", 1000 * image, most=20)
    claim("ms of the processor for that, median", 1000 * computing, most=20)
    claim("exit status", process.returncode, 0, 0)
    finish()


if __name__ == "__main__":
    main()
