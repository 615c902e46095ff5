"""Jobs and files on Windows, with a double of its locks: they belong to a handle, and none is locked twice."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import sdxl.jobs
from sdxl.errors import OutputError
from sdxl.images.output import check_name, check_writable, same_name, write_file
from sdxl.jobs.engine import Outcome, work
from sdxl.jobs.folder import open_folder
from sdxl.jobs.job import Batch, Job, parse_job
from sdxl.jobs.plan import read_plan
from sdxl.runtime.precision import Precision

JOB = [{"prompt": each, "steps": 5 + len(each) % 2} for each in ("a", "bb", "c", "dd", "e")]


class Locks:
    """`msvcrt.locking`, for handles of one process in place of several processes."""

    LK_UNLCK, LK_NBLCK = 0, 2

    def __init__(self) -> None:
        self.held: dict[int, list[tuple[int, int]]] = {}

    def locking(self, handle: int, mode: int, count: int) -> None:
        own, range = self.held.setdefault(handle, []), (os.lseek(handle, 0, os.SEEK_CUR), count)
        if mode == self.LK_UNLCK and range in own:
            own.remove(range)
            return
        taken = [each for some in self.held.values() for each in some]
        if mode == self.LK_UNLCK or any(first < sum(range) and range[0] < first + many for first, many in taken):
            raise PermissionError(errno.EACCES, "Permission denied")
        own.append(range)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Locks:
    """The locks of a pretended Windows."""
    locks = Locks()
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "msvcrt", locks)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "fcntl", None)  # type: ignore[arg-type]
    path = Path(sdxl.jobs.__file__).with_name("claims.py")
    spec = importlib.util.spec_from_file_location("sdxl.jobs.claims_of_windows", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("sdxl.jobs.folder.Claims", forgetting(module, locks))
    return locks


def forgetting(module: ModuleType, locks: Locks) -> Any:
    """The class of claims; the locks of a handle that is closed are free."""

    class Claims(module.Claims):  # type: ignore[misc, name-defined]
        def close(self) -> None:
            locks.held.pop(self._file, None)
            super().close()

    return Claims


def job_of(lines: list[dict[str, Any]]) -> Job:
    return parse_job("\r\n".join(map(json.dumps, lines)), Path(), {}, {"model": "m"})


def pretend(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Outcome]]:
    for batch in batches:
        yield batch, [file.encode() for file in batch.files]


def test_two_processes_share_a_job(windows: Locks, tmp_path: Path) -> None:
    """One has claimed a batch when the other begins, which does the rest and nothing twice."""
    job = job_of(JOB)
    with open_folder(tmp_path, job, 7) as first, open_folder(tmp_path, job, 7) as second:
        batches = first.claim(first.batches(2))
        batch = next(batches)
        others = list(second.claim(second.batches(2)))
        assert {*batch.files}.isdisjoint(file for each in others for file in each.files)
        assert len(batch.files) + sum(len(each.files) for each in others) == len(JOB)
        for each in others:
            second.finish(each, [file.encode() for file in each.files])
            second.release(each)
        first.finish(batch, [file.encode() for file in batch.files])
        first.release(batch)
        assert first.count_done() == second.count_done() == len(JOB)
        assert list(batches) == []
    assert not any(windows.held.values())
    lines = (tmp_path / "job/done.jsonl").read_bytes().splitlines()
    assert len(lines) == len(JOB) and all(map(json.loads, lines))


def test_a_job_is_resumed(windows: Locks, tmp_path: Path) -> None:
    for count in (5, 0):
        with open_folder(tmp_path, job_of(JOB), 7) as folder:
            done = [event.batch.files for event in work(folder.batches(2), folder, pretend) if event.batch]
        assert sum(map(len, done)) == count


def test_a_record_is_appended_under_a_lock(windows: Locks, tmp_path: Path) -> None:
    """Windows moves to the end and writes there in two steps: two processes would write to one place."""
    job = job_of(JOB)
    with open_folder(tmp_path, job, 7) as folder:
        seen: list[list[tuple[int, int]]] = []
        record = folder.journal.record

        def watched(items: Any) -> None:
            seen.append([each for some in windows.held.values() for each in some])
            record(items)

        object.__setattr__(folder, "journal", SimpleNamespace(**methods(folder.journal), record=watched))
        batch = next(folder.claim(folder.batches(1)))
        folder.finish(batch, [b""])
        assert [(2**30 - 1, 1) in each for each in seen] == [True]


def test_the_plan_is_read_under_the_lock(windows: Locks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another process, whose turn it is, could not replace it."""
    seen: list[bool] = []

    def watched(path: Path) -> Any:
        seen.append(any((2**30 - 1, 1) in each for each in windows.held.values()))
        return read_plan(path)

    monkeypatch.setattr("sdxl.jobs.folder.read_plan", watched)
    with open_folder(tmp_path, job_of(JOB), 7) as folder:
        assert folder.agree(lambda: Precision("float32", "float32")) == Precision("float32", "float32")
        assert len(list(folder.claim(folder.batches(2)))) > 1
    assert len(seen) > 3 and all(seen)


def methods(journal: Any) -> dict[str, Any]:
    return {name: getattr(journal, name) for name in ("refresh", "has", "close", "forget_missing")}


# ---- files -----------------------------------------------------------------------------------------------------------


def refuse(times: int, calls: list[str]) -> Any:
    """`os.replace`, which fails so often because another program has a file open."""
    replace = os.replace

    def call(source: str, target: Path) -> None:
        calls.append("replace")
        if len(calls) <= times:
            raise PermissionError(errno.EACCES, "Access is denied")
        replace(source, target)

    return call


def test_a_file_that_is_open_for_a_moment(windows: Locks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(os, "replace", refuse(3, calls))
    write_file(b"image", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"image"
    assert len(calls) == 4


def test_a_file_that_stays_open(windows: Locks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdxl.weights.part._PATIENCE", 0.1)
    monkeypatch.setattr(os, "replace", refuse(10**6, []))
    with pytest.raises(OutputError, match=r"Access is denied; close the program that has it open, or choose another"):
        write_file(b"image", tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_elsewhere_a_refusal_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(os, "replace", refuse(10**6, calls))
    with pytest.raises(OutputError, match="Access is denied; choose another path"):
        write_file(b"image", tmp_path / "a.png")
    assert calls == ["replace"]


def test_what_cannot_be_replaced_is_refused_before_work(
    windows: Locks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"before")
    check_writable(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)  # the attribute "read-only"
        with pytest.raises(OutputError, match="it may only be read; choose another path"):
            check_writable(path)

    def rename(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "The process cannot access the file")

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OutputError, match="cannot access the file; close the program"):
        check_writable(path)
    assert path.read_bytes() == b"before"


NO_NAMES = [
    "a:b.png",
    "what?.png",
    "NUL.png",
    "con.png",
    "aux",
    "Com1.png",
    "lpt\u00b2.x.png",
    "a<b.png",
    'a".png',
    "*.png",
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_no_names_of_files(name: str, windows: Locks, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no name of a file on Windows"):
        check_name(name)
    if name.endswith(".png"):
        with pytest.raises(OutputError, match="no name of a file on Windows"):
            check_writable(tmp_path / name)
        job = job_of([{"prompt": "a", "output": name}])
        assert not job.files and len(job.faults) == 1


@pytest.mark.parametrize("name", ["console.png", "com.png", "com10.png", "a b (1).png", "null.png", "\u96ea.png"])
def test_names_of_files(name: str, windows: Locks) -> None:
    check_name(name)


def test_elsewhere_they_are_names(tmp_path: Path) -> None:
    check_writable(tmp_path / "nul.png")
    assert job_of([{"prompt": "a", "output": "what?.png"}]).files == ["what?.png"]


def test_names_that_another_file_system_takes_for_the_same() -> None:
    assert same_name("\u00c9t\u00c9.png") == same_name("e\u0301te\u0301.PNG")
    job = job_of([{"prompt": "a", "output": "\u00e9.png"}, {"prompt": "b", "output": "E\u0301.png"}])
    assert [*job.faults] == [2]
