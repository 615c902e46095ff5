"""Proof: the service under load: 200 requests of 20 clients over 8 kinds, with SIGTERM in the middle and a restart.

    make proof-load           # some minutes

Each request must get exactly one honest answer: its image, the refusal that it deserves, or 503 where the service ends
before its turn. Images of the same arguments are the same, the queue keeps its bound, jobs of the first process are
unknown to the second, and the memory is flat after 1,000 requests. The exit status is 1 if anything is not.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from common import ask as ask_service
from common import banner, claim, finish, memory
from PIL import Image

QUEUE = 6
SMALL = {"prompt": "a red circle", "seed": 1, "steps": 2, "width": 64, "height": 64}
FLAT = 10.0  # MB that the memory may grow by between the first fifth of the requests and the last
HONEST = {  # what each kind may get; 503 in all, where the service ends
    "text": {"done"},
    "polled": {"done"},
    "form": {"done"},
    "mask": {"done"},
    "batches": {"done"},
    "cancelled": {"done", "cancelled"},
    "bad value": {"400"},
    "bad name": {"404"},
    "sdapi": {"done"},
    "openai": {"done"},
}


class UnansweredError(Exception):
    """Nothing listens, or the connection ended before the answer did."""


@dataclass
class Load:
    """What the clients share. `ids` are the jobs of each process, `images` the digests of each kind."""

    port: int
    outcomes: list[tuple[str, str]] = field(default_factory=list)
    busy: int = 0
    unanswered: Counter[str] = field(default_factory=Counter)
    ids: list[set[str]] = field(default_factory=lambda: [set()])
    images: dict[str, set[str]] = field(default_factory=dict)
    longest: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, bytes]:
        """Status and body. Raises `UnansweredError`."""
        try:
            status, headers, content = ask_service(self.port, method, path, body, kind)
        except (OSError, http.client.HTTPException) as error:
            raise UnansweredError(f"{method} {re.sub('[^/]{16,}', 'ID', path)}: {type(error).__name__}") from error
        assert status != 429 or int(headers["retry-after"]) >= 1
        return status, content

    def image(self, kind: str, data: bytes) -> None:
        """An image that came: its pixels."""
        with Image.open(io.BytesIO(data)) as image:
            digest = hashlib.sha256(image.tobytes()).hexdigest()
        with self.lock:
            self.images.setdefault(kind, set()).add(digest)


# ---- kinds of requests: each gives the one answer


def job(load: Load, kind: str, body: Any, type: str = "application/json", polls: bool = False) -> str:
    """A job to its end, with its images."""
    status, content = load.ask("POST", "/api/jobs", body, type)
    if status != 202:
        return refused(status, content)
    id = json.loads(content)["id"]
    with load.lock:
        load.ids[-1].add(id)
    if kind == "cancelled":
        load.ask("POST", f"/api/jobs/{id}/cancel")
    if polls:
        while True:
            state = json.loads(load.ask("GET", f"/api/jobs/{id}")[1])
            if state["status"] not in ("queued", "running"):
                break
            time.sleep(0.05)
        last, error, count = state["status"], state["error"], len(state["images"])
    else:
        blocks = load.ask("GET", f"/api/jobs/{id}/events")[1].decode().split("\n\n")
        events = [re.match(r"event: (\w+)\ndata: (.*)", block) for block in blocks if block.startswith("event")]
        names = [event[1] for event in events if event is not None]
        assert sum(name in ("done", "failed", "cancelled") for name in names) == 1, names
        last, count = names[-1], names.count("image")
        error = json.loads(events[-1][2])["error"] if events[-1] is not None else None
    for number in range(count if last == "done" else 0):
        status, content = load.ask("GET", f"/api/files/{id}-{number + 1}.png")
        assert status == 200, content
        load.image(f"{kind} {number}", content)
    assert last != "done" or count == (2 if kind == "batches" else 1)
    return "503" if last == "failed" and error["type"] == "ClosingError" else last


def refused(status: int, content: bytes) -> str:
    error = json.loads(content)  # in the shape of a skin, whichever
    assert "error" in error or "detail" in error
    return str(status)


def one_answer(load: Load, kind: str, path: str, body: Any, read: Callable[[Any], str]) -> str:
    """A request whose answer is the image."""
    status, content = load.ask("POST", path, body)
    if status != 200:
        return refused(status, content)
    load.image(kind, b64decode(read(json.loads(content))))
    return "done"


def encoded(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, format="PNG")
    return data.getvalue()


def ask(load: Load, kind: str) -> str:
    source = encoded(Image.new("RGB", (64, 64), "green"))
    if kind == "form":
        request = json.dumps({**SMALL, "strength": 1.0}).encode()
        parts = (b'"request"\r\n\r\n' + request, b'"image"; filename="a.png"\r\n\r\n' + source)
        body = b"".join(b"--edge\r\nContent-Disposition: form-data; name=" + each + b"\r\n" for each in parts)
        return job(load, kind, body + b"--edge--\r\n", "multipart/form-data; boundary=edge")
    if kind == "sdapi":
        given = {**SMALL, "sampler_name": "Euler", "cfg_scale": 5}
        return one_answer(load, kind, "/sdapi/v1/txt2img", given, lambda answer: str(answer["images"][0]))
    if kind == "openai":
        given = {**SMALL, "size": "64x64"}
        return one_answer(
            load, kind, "/v1/images/generations", given, lambda answer: str(answer["data"][0]["b64_json"])
        )
    mask = encoded(Image.linear_gradient("L").resize((64, 64)))
    more: dict[str, dict[str, Any]] = {
        "mask": {"image": b64encode(source).decode(), "mask": b64encode(mask).decode(), "strength": 1.0},
        "batches": {"batches": 2},
        "bad value": {"steps": 0},
        "bad name": {"loras": ["no-such-file"]},
        "cancelled": {"steps": 20},
    }
    return job(load, kind, {**SMALL, **more.get(kind, {})}, polls=kind == "polled")


def client(load: Load, kinds: Iterable[str]) -> None:
    """Ask for each kind until it is answered: later where the queue is full, or where the service is away."""
    for kind in kinds:
        while True:
            try:
                outcome = ask(load, kind)
            except UnansweredError as error:
                with load.lock:
                    load.unanswered[str(error)] += 1
                time.sleep(0.2)
                continue
            except Exception as error:
                outcome = repr(error)
            if outcome != "429":
                break
            with load.lock:
                load.busy += 1
            time.sleep(0.2)
        with load.lock:
            load.outcomes.append((kind, outcome))
        if outcome == "503":
            wait_ready(load)  # the next one is for the next process


# ---- the process


def start(port: int) -> subprocess.Popen[bytes]:
    flags = ["--model", "miniature", "--dtype", "float32", "--port", str(port), "--queue", str(QUEUE)]
    return subprocess.Popen([sys.executable, "-m", "sdxl", "serve", *flags], stderr=subprocess.DEVNULL)


def wait_ready(load: Load) -> None:
    while True:
        try:
            if load.ask("GET", "/ready")[0] == 200:
                return
        except UnansweredError:
            pass
        time.sleep(0.1)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def kinds_of(load: Load) -> list[str]:
    """Eight kinds: with those of other protocols where they are served."""
    named = ("text", "form", "mask", "batches", "cancelled", "bad value")
    others = (("sdapi", "/sdapi/v1/txt2img", "polled"), ("openai", "/v1/images/generations", "bad name"))
    return [*named, *(name if load.ask("GET", path)[0] == 405 else other for name, path, other in others)]


def storm(load: Load, process: subprocess.Popen[bytes], requests: int, clients: int) -> subprocess.Popen[bytes]:
    """All requests, with the end of the process when half of them are answered; the second process."""
    kinds = kinds_of(load)
    shares = [[kinds[(number + each) % len(kinds)] for each in range(requests // clients)] for number in range(clients)]
    threads = [threading.Thread(target=client, args=(load, share)) for share in shares]
    watching = threading.Thread(target=watch, args=(load, threads))
    for thread in (*threads, watching):
        thread.start()
    while len(load.outcomes) < requests // 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0, process.returncode
    load.ids.append(set())
    process = start(load.port)
    for thread in (*threads, watching):
        thread.join()
    wait_ready(load)
    return process


def watch(load: Load, threads: list[threading.Thread]) -> None:
    """See how long the queue is, as long as there are clients."""
    while any(thread.is_alive() for thread in threads):
        try:
            waiting = json.loads(load.ask("GET", "/api/server")[1])["waiting"]
            load.longest = max(load.longest, waiting)
        except UnansweredError:
            pass
        time.sleep(0.02)


def later_memory(load: Load, process: subprocess.Popen[bytes], requests: int) -> list[float]:
    """MB after each fifth of many requests of all kinds, four clients at a time."""
    kinds, measured = kinds_of(load), []
    for _ in range(5):
        todo: queue.SimpleQueue[str] = queue.SimpleQueue()
        for number in range(requests // 5):
            todo.put(kinds[number % len(kinds)])
        threads = [threading.Thread(target=client, args=(load, taken(todo))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        measured.append(memory("VmRSS", process.pid) / 1e6)
    return measured


def taken(todo: queue.SimpleQueue[str]) -> Iterable[str]:
    while True:
        try:
            yield todo.get_nowait()
        except queue.Empty:
            return


def proof(requests: int, clients: int, later: int) -> list[str]:
    """What is wrong. Prints what is measured."""
    load, wrong = Load(free_port()), list[str]()
    process = start(load.port)
    try:
        wait_ready(load)
        process = storm(load, process, requests, clients)
        counts = Counter(load.outcomes)
        for (kind, outcome), count in sorted(counts.items()):
            print(f"{kind}: {outcome} x {count}")
        wrong += [f"{kind}: {outcome}" for kind, outcome in counts if outcome not in HONEST[kind] | {"503"}]
        wrong += [] if counts.total() == requests else [f"{counts.total()} answers to {requests} requests"]
        print(f"answers: {counts.total()}, of them 503: {sum(n for (_, each), n in counts.items() if each == '503')}")
        print(f"429 with Retry-After, asked again: {load.busy}; most waiting: {load.longest} of {QUEUE}")
        wrong += [] if load.longest <= QUEUE else [f"{load.longest} waited"]
        away = {what: n for what, n in load.unanswered.items() if "ConnectionRefused" not in what}
        print(f"nothing listened, asked again: {load.unanswered.total() - sum(away.values())}; broken answers: {away}")
        wrong += [f"broken: {what}" for what in away]
        old = [load.ask("GET", f"/api/jobs/{id}")[0] for id in load.ids[0]]
        print(f"jobs of the first process in the second: {dict(Counter(old))}")
        wrong += [] if set(old) == {404} else ["an old job is known"]
        if later:
            measured = later_memory(load, process, later)
            print(f"MB after each fifth of {later} more: {', '.join(f'{each:.0f}' for each in measured)}")
            wrong += [] if measured[-1] - measured[0] <= FLAT else ["the memory grows"]
        print(f"different images of each kind: { {kind: len(each) for kind, each in sorted(load.images.items())} }")
        wrong += [f"images of {kind} differ" for kind, each in load.images.items() if len(each) > 1]
        process.send_signal(signal.SIGTERM)
        wrong += [] if process.wait(120) == 0 else [f"exit status {process.returncode}"]
    finally:
        process.kill()
        process.wait()
    return wrong


def main() -> None:
    banner("sdxl serve under load")
    wrong = proof(requests=200, clients=20, later=1000)
    for each in wrong:
        claim(each, False)
    claim("all answers are honest, the queue keeps its bound, the memory is flat", not wrong)
    finish()


if __name__ == "__main__":
    main()
