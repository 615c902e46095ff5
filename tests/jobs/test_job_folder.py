"""The folder of a job: what identifies an image, who works on it, and what is on disk."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sdxl.errors import OutputError
from sdxl.jobs.engine import Outcome, work
from sdxl.jobs.folder import open_folder
from sdxl.jobs.job import Batch, Job, gather, identity, parse_job
from sdxl.jobs.plan import JobPlan, read_plan, write_plan


def job_of(*prompts: str, **common: Any) -> Job:
    """A job with a line for each prompt."""
    return parse_job("\n".join(json.dumps({"prompt": each, **common}) for each in prompts), Path(), {}, {"model": "m"})


def pretend(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Outcome]]:
    """An engine whose images are their file names."""
    for batch in batches:
        yield batch, [file.encode() for file in batch.files]


def finish(job: Job, out: Path, size: int) -> list[tuple[str, ...]]:
    """Work on a job until it is done; the batches."""
    with open_folder(out, job, 7) as folder:
        return [event.batch.files for event in work(folder.batches(size), folder, pretend) if event.batch]


def record_batches(job: Job, out: Path, size: int, count: int) -> None:
    """The first batches of a job as version 0.1.0 recorded them: a line for each, with the key of all its files."""
    lines = []
    for number, batch in enumerate(job.batches(size, 7)[:count]):
        for file in batch.files:
            (out / file).write_text(file)
        seeds, key = batch.arguments["seed"], job.key(batch.files, 7)
        lines.append({"batch": number, "key": key, "lines": batch.lines, "files": batch.files, "seeds": seeds})
    (out / "job/done.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@contextmanager
def another_process(work: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """A process that has done `work` and waits, until the end or until it is called, when it ends."""
    ready, stop = os.pipe(), os.pipe()
    if not (child := os.fork()):
        try:
            work()
            os.write(ready[1], b".")
            os.close(stop[1])
            os.read(stop[0], 1)
        finally:
            os._exit(0)
    os.close(ready[1])
    assert os.read(ready[0], 1), "it has failed"
    ended: list[int] = []

    def end() -> None:
        if not ended:
            ended.append(os.write(stop[1], b"."))
            os.waitpid(child, 0)

    try:
        yield end
    finally:
        end()
        for handle in (ready[0], *stop):
            os.close(handle)


# ---- batches of any size ---------------------------------------------------------------------------------------------


def names(*numbers: int) -> tuple[str, ...]:
    return tuple(f"{n:05}.png" for n in numbers)


def test_a_job_goes_on_with_another_batch_size(tmp_path: Path) -> None:
    job = job_of(*"abcdefg")

    def stopping(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Outcome]]:
        yield next(pretend(batches))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_folder(tmp_path, job, 7) as folder:
        list(work(folder.batches(4), folder, stopping))
    assert finish(job, tmp_path, 2) == [names(5, 6), names(7)]
    (tmp_path / "00002.png").unlink()
    (tmp_path / "00003.png").unlink()
    assert finish(job, tmp_path, 2) == [names(2), names(3)], "batches depend on the lines alone"
    lines = (tmp_path / "job/done.jsonl").read_text().splitlines()
    assert [json.loads(line)["files"] for line in lines] == [[f"{n:05}.png"] for n in (1, 2, 3, 4, 5, 6, 7, 2, 3)]
    assert len({json.loads(line)["key"] for line in lines}) == 7


def test_a_job_goes_on_with_another_offload(tmp_path: Path) -> None:
    """How the model is kept in memory is no part of what its images are; which model it is, is."""
    line = json.dumps({"prompt": "a"})

    def job_with(**model: Any) -> Job:
        return parse_job(line, Path(), {}, identity(model, 7))

    assert finish(job_with(model="m", offload="none"), tmp_path, 1) == [names(1)]
    assert finish(job_with(model="m", offload="block"), tmp_path, 1) == []
    with pytest.raises(OutputError, match="would be another image"):
        finish(job_with(model="n", offload="none"), tmp_path, 1)


def test_batches_that_an_older_version_recorded_count_image_by_image(tmp_path: Path) -> None:
    job = job_of(*"abcdefg")
    with open_folder(tmp_path, job, 7):
        pass
    record_batches(job, tmp_path, 3, 2)
    assert finish(job, tmp_path, 2) == [names(7)]
    (tmp_path / "00002.png").unlink()
    assert finish(job, tmp_path, 2) == [names(2)]
    with pytest.raises(OutputError, match=r"00004\.png would be another image"):
        finish(job_of(*"abcdXfg"), tmp_path, 2)
    (
        tmp_path / "00005.png"
    ).unlink()  # now nobody can tell whose line has changed: the rest of that batch is done again
    assert finish(job_of(*"abcdXfg"), tmp_path, 2) == [names(4), names(5, 6)]


def test_a_folder_of_an_older_version_takes_the_batch_size_out_of_its_plan(tmp_path: Path) -> None:
    job = job_of(*"abcd")
    (tmp_path / "job").mkdir()
    (tmp_path / "job/plan.json").write_text('{"job": "with the batch size in it", "first_seed": 7}\n')
    record_batches(job, tmp_path, 2, 1)
    assert finish(job, tmp_path, 4) == [names(3, 4)]
    assert read_plan(tmp_path / "job/plan.json") == JobPlan(job.fingerprint, 7)


def test_images_with_latents_are_generated_and_recorded_as_one(tmp_path: Path) -> None:
    line = json.dumps({"prompt": ["a", "b"], "latents": "x.safetensors"})
    job = parse_job(line, tmp_path, {}, {})
    with open_folder(tmp_path, job, 7) as folder:
        (batch,) = folder.claim(folder.batches(1))
        folder.finish(batch, [b"1", b"2"])
        (tmp_path / "00001-1.png").unlink()
        (again,) = folder.pending(folder.batches(1))
    assert again.files == ("00001-1.png", "00001-2.png")


def test_processes_with_other_batch_sizes_share_a_folder(tmp_path: Path) -> None:
    job = job_of(*"abcdefgh")

    def claim_one() -> object:
        folder = open_folder(tmp_path, job, 7)
        claims = folder.claim(folder.batches(1)[1:2])
        return next(claims), kept.append(folder)

    kept: list[object] = []
    with another_process(claim_one) as end, open_folder(tmp_path, job, 7) as folder:
        claimed = list(folder.claim(folder.batches(4)))
        assert [batch.files for batch in claimed] == [names(1, 3, 4), names(5, 6, 7, 8)]
        for batch in claimed:
            folder.release(batch)
        events = work(folder.batches(8), folder, pretend)
        first, second = next(events), next(events)
        assert first.batch is not None and first.batch.files == names(1, 3, 4, 5, 6, 7, 8)
        assert second.batch is None, "the other process has the rest"
        end()
        (third,) = (event for event in events if event.batch)
        assert third.batch is not None and third.batch.files == names(2), "a dead process claims nothing"


def test_a_batch_is_claimed_whole(tmp_path: Path) -> None:
    """Of two processes with one batch size, one gets a batch and the other the next, as if they were alone."""
    lines = [json.dumps({"prompt": "a", "steps": 5 + n % 2}) for n in range(8)]
    job = parse_job("\n".join(lines), Path(), {}, {})

    def claim_first() -> object:
        folder = open_folder(tmp_path, job, 7)
        return next(folder.claim(folder.batches(2))), kept.append(folder)

    kept: list[object] = []
    with open_folder(tmp_path / "alone", job, 7) as folder:
        assert folder.claims.claim([0, 1, 3]) == [(0, 4)], "in one step"
    with another_process(claim_first), open_folder(tmp_path, job, 7) as folder:
        assert [batch.files for batch in folder.claim(folder.batches(2))] == [names(2, 4), names(5, 7), names(6, 8)]


def test_images_that_another_process_has_finished_are_not_claimed(tmp_path: Path) -> None:
    job = job_of(*"abcd")

    def finish_one() -> None:
        with open_folder(tmp_path, job, 7) as other:
            other.finish(gather(job.items[1:2], 7), [b"2"])

    with open_folder(tmp_path, job, 7) as folder:
        pending = folder.pending(folder.batches(2))
        with another_process(finish_one):
            assert [batch.files for batch in folder.claim(pending)] == [names(1), names(3, 4)]


# ---- another job in the same folder ----------------------------------------------------------------------------------


def test_a_folder_is_taken_from_its_beginning(tmp_path: Path) -> None:
    """Another job cannot take it while the first one loads its model, before it has claimed anything."""
    job, kept = job_of("a"), []
    with another_process(lambda: kept.append(open_folder(tmp_path, job, 7))) as end:
        with pytest.raises(OutputError, match="is in use by another job"):
            open_folder(tmp_path, job_of("b"), 7)
        with open_folder(tmp_path, job, 7) as folder:
            assert folder.plan.job == job.fingerprint, "the same job is welcome"
        end()
    with open_folder(tmp_path, job_of("b"), 7) as folder:
        assert folder.plan.job == job_of("b").fingerprint


def test_two_jobs_that_start_at_once(tmp_path: Path) -> None:
    """One of them gets the folder, and the other an error."""
    results = []
    for n in range(4):
        ready, go, end = os.pipe(), os.pipe(), os.pipe()
        children = []
        for prompt in "ab":
            if not (child := os.fork()):
                status = 1
                try:
                    os.read(go[0], 1)
                    folder = open_folder(tmp_path / str(n), job_of(prompt), 7)
                    status = 0
                    os.write(ready[1], b".")
                    os.read(end[0], 1)
                    next(folder.claim(folder.batches(1)))
                except OutputError:
                    status = 2
                    os.write(ready[1], b".")
                    os.read(end[0], 1)
                finally:
                    os._exit(status)
            children.append(child)
        os.write(go[1], b"..")
        assert len(os.read(ready[0], 1) + os.read(ready[0], 1)) == 2
        os.write(end[1], b"..")
        results.append(sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
        for handle in (*ready, *go, *end):
            os.close(handle)
    assert results == [[0, 2]] * 4


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_files_obey_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        finish(job_of("a"), tmp_path, 1)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "job").iterdir()}
    assert modes == {"plan.json": mode, "done.jsonl": mode, "claims": mode}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "is damaged"),
        ("[1]", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ('{"job": 1, "first_seed": 2}', "is damaged"),
        ('{"job": "a", "first_seed": -2}', "is damaged"),
        ('{"job": "a", "first_seed": true}', "is damaged"),
        ('{"job": "a", "first_seed": 1, "dtype": "float32"}', "is damaged"),
        ('{"job": "a", "first_seed": 1, "dtype": "float32", "arithmetic": "bfloat16"}', "is damaged"),
        ('{"job": "a", "first_seed": 1, "dtype": "float8", "arithmetic": "float8"}', "is damaged"),
        ('{"job": "a", "first_seed": 1, "later": 2}', "has 'later', which this version of sdxl does not know"),
        (json.dumps({"job": "a", "first_seed": 1, "\x1b[31m" + "x" * 10**4: 2}), "does not know"),
        (json.dumps({"job": "a" * 10**6, "first_seed": 1}), "is damaged"),
    ],
)
def test_a_damaged_plan(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(OutputError, match=sentence) as caught:
        read_plan(path)
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


def test_a_plan_that_is_gone(tmp_path: Path) -> None:
    with open_folder(tmp_path, job_of("a"), 7) as folder:
        (tmp_path / "job/plan.json").unlink()
        with pytest.raises(OutputError, match=r"plan\.json cannot be read \(No such file or directory\)"):
            next(folder.claim(folder.batches(1)))


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    for plan in (JobPlan("a", 2), JobPlan("a", 2, "bfloat16", "float32")):
        write_plan(plan, tmp_path / "plan.json")
        assert read_plan(tmp_path / "plan.json") == plan
    assert os.listdir(tmp_path) == ["plan.json"]


@pytest.mark.parametrize(
    "line",
    [b"{", b"\xff\xfe", b"[" * 100_000, b'{"key": 1}', b'{"key": "a", "files": 3}', b"x" * (3 << 20), b"9" * 10_000],
    ids=len,
)
def test_damaged_lines_of_the_journal_are_ignored(line: bytes, tmp_path: Path) -> None:
    """Wherever they are, and however long."""
    job = job_of(*"abc")
    finish(job, tmp_path, 1)
    path = tmp_path / "job/done.jsonl"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + b"\n" + b"".join(rest[:1]) + line)
    assert finish(job, tmp_path, 1) == [names(3)]
    assert finish(job, tmp_path, 1) == []


def test_a_record_that_is_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:7]))
    finish(job_of(*"abc"), tmp_path, 2)
    monkeypatch.undo()
    assert finish(job_of(*"abc"), tmp_path, 2) == []
