"""Batch jobs: images that share a batch, resumed jobs, several processes, faults in the middle."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import sdxl
from sdxl.cli.main import main
from sdxl.errors import ArgumentError, CheckpointError, NonFiniteError, OutputError, SDXLWarning
from sdxl.jobs.engine import Engine, Outcome, draw, local, work
from sdxl.jobs.folder import open_folder
from sdxl.jobs.job import Batch, Job, read_job
from sdxl.weights.part import open_part


def job_of(folder: Path, *lines: Any, defaults: Mapping[str, Any] | None = None, model: str = "base") -> Job:
    """The job of a file with these lines, JSON or text."""
    path = folder / "job.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return read_job(path, defaults or {}, {"model": model})


def pretend(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Outcome]]:
    """An engine whose images are their file names and prompts."""
    for batch in batches:
        yield batch, [f"{file} {batch.arguments['prompt']}".encode() for file in batch.files]


def finish(job: Job, folder: Path, engine: Engine = pretend) -> list[Any]:
    """Work on a job until it is done."""
    with open_folder(folder, job, 7) as job_folder:
        return list(work(job_folder.batches(2), job_folder, engine))


# ---- lines and batches -----------------------------------------------------------------------------------------------


def test_images_with_the_same_settings_share_a_batch(tmp_path: Path) -> None:
    job = job_of(
        tmp_path,
        {"prompt": "a"},
        {"prompt": "b", "steps": 3},
        "",
        {"prompt": ["c", "d"], "negative_prompt": ["", "x"], "seed": 90},
        {"prompt": "e", "output": "e.png"},
        {"prompt": "f", "num_images": 3, "seed": [5, 6, 7]},
    )
    batches = job.batches(2, first_seed=100)
    assert [batch.files for batch in batches] == [
        ("00001.png", "e.png"),
        ("00002.png",),
        ("00004-1.png", "00004-2.png"),
        ("00006-1.png", "00006-2.png"),
        ("00006-3.png",),
    ]
    assert [batch.lines for batch in batches] == [(1, 5), (2,), (4, 4), (6, 6), (6,)]
    # a line's seed counts the images of the line; the job's seed counts the images of the job
    assert [batch.arguments["seed"] for batch in batches] == [[100, 104], [101], [90, 91], [5, 6], [7]]
    assert batches[0].arguments["prompt"] == ["a", "e"]
    assert batches[2].arguments["negative_prompt"] == ["", "x"]
    assert all(len(batch.files) == 1 for batch in job.batches(1, 0))


def test_latents_share_no_batch(tmp_path: Path) -> None:
    job = job_of(
        tmp_path, *[{"prompt": "a", "latents": "x.safetensors"}] * 2, {"prompt": ["b", "c"], "latents": "y.safetensors"}
    )
    batches = job.batches(4, first_seed=0)
    assert [len(batch.files) for batch in batches] == [1, 1, 2]
    assert batches[2].arguments["prompt"] == ["b", "c"] and batches[2].arguments["seed"] == [2, 3]
    assert batches[2].arguments["latents"] == str(tmp_path / "y.safetensors")


def test_flags_apply_to_lines_that_do_not_override_them(tmp_path: Path) -> None:
    defaults = {"steps": 4, "negative_prompt": "dog"}
    job = job_of(tmp_path, {"prompt": "a"}, {"prompt": "a", "steps": 9, "negative_prompt": None}, defaults=defaults)
    first, second = (batch.arguments for batch in job.batches(2, 0))
    assert (first["steps"], first["negative_prompt"]) == (4, "dog")
    assert (second["steps"], second.get("negative_prompt")) == (9, None)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{oops", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not an object"),
        ({"steps": 3}, "no prompt"),
        ({"prompt": None}, "no prompt"),
        ({"prompt": "a", "promt_2": "b"}, "'promt_2' is not an argument"),
        ({"prompt": "a", "steps": 0}, "steps is 0"),
        ({"prompt": "a", "num_images": 10**12}, "num_images is 1000000000000"),
        ({"prompt": ["a", "b"], "seed": [1]}, "seed has 1 entries for 2 images"),
        ({"prompt": "a", "mask": "m.png"}, "mask is given without image"),
        ({"prompt": "a", "image": 5}, "image is 5; give the path of a file"),
        ({"prompt": "a", "image": "a\0b"}, "give the path of a file"),
        ({"prompt": "a", "image": ["1.png", "2.png"]}, "image has 2 entries for 1 prompts"),
        ({"prompt": "a", "output": "../a.png"}, "must be a plain file name"),
        ({"prompt": "a", "output": "/tmp/a.png"}, "must be a plain file name"),
        ({"prompt": "a", "output": "a\\b.png"}, "must be a plain file name"),
        ({"prompt": "a", "output": "a.jpg"}, "must be a plain file name"),
        ({"prompt": "a", "output": ".a.png"}, "must be a plain file name"),
        ({"prompt": "a", "output": 3}, "must be a plain file name"),
        ({"prompt": "a", "output": "Good.PNG".lower()}, "output is good.png, as in line 1"),
        ({"prompt": "a", "output": "\x1b[31mred.png"}, r"output is '\x1b[31mred.png'"),
        ({"prompt": "a", "\x1b[31mred": 1}, r"'\x1b[31mred' is not an argument"),
        ({"prompt": "a", "x" * 10**6: 1}, "is not an argument"),
        ({"prompt": "a", "output": "x" * 10**6}, "must be a plain file name"),
        ({"prompt": "a", "image": ["x"] * 10**5}, "image has 100000 entries for 1 prompts"),
        ({"prompt": ["x" * 10**6, 3]}, "it must be a text or a list of texts"),
        ({"prompt": "a", "steps": "9" * 10**6}, "steps is"),
        ("x" * 10**6, "not JSON"),
        ('"' + "x" * 10**6, "not JSON"),
        ('{"prompt": "a", "seed": ' + "9" * 10**6 + "}", "not JSON"),
    ],
)
def test_a_bad_line_is_reported_and_the_others_continue(line: Any, sentence: str, tmp_path: Path) -> None:
    job = job_of(tmp_path, {"prompt": "a", "output": "GOOD.png"}, line, {"prompt": "b"})
    assert list(job.faults) == [2]
    assert isinstance(job.faults[2], ArgumentError) and sentence in str(job.faults[2])
    assert len(str(job.faults[2])) < 1000 and str(job.faults[2]).isprintable()
    assert job.files == ["GOOD.png", "00003.png"]


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="cannot be read"):
        read_job(tmp_path / "none.jsonl", {}, {})
    for data, fault in (
        (b'\xef\xbb\xbf{"prompt": "a"}\r\n\n{"prompt": "caf\xe9"}', "line 3 is not in UTF-8"),
        (b"\xef\xbb\xbf{}\n\xff", "line 2 is not in UTF-8"),
        ('{"prompt": "a"}\r\n'.encode("utf-16"), "it is in UTF-16"),
    ):
        (tmp_path / "a.jsonl").write_bytes(data)
        with pytest.raises(ArgumentError, match=rf"a\.jsonl cannot be read \({fault}\); give JSON lines in UTF-8"):
            read_job(tmp_path / "a.jsonl", {}, {})


# ---- the journal -----------------------------------------------------------------------------------------------------


def test_a_resumed_job_generates_the_missing_images_alone(tmp_path: Path) -> None:
    job, out = job_of(tmp_path, *({"prompt": str(n)} for n in range(5))), tmp_path / "out"
    asked: list[tuple[int, ...]] = []

    def stopping(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Outcome]]:
        for batch, images in pretend(batches):
            asked.append(batch.lines)
            if len(asked) == 2:
                raise KeyboardInterrupt
            yield batch, images

    with pytest.raises(KeyboardInterrupt):
        finish(job, out, stopping)
    assert asked == [(1, 2), (3, 4)]
    finish(job, out, stopping)
    assert asked[2:] == [(3, 4), (5,)], "an image that was not recorded is generated again, the others are not"
    (out / "00001.png").unlink()
    finish(job, out, stopping)
    assert asked[4:] == [(1,)], "an image that was removed is generated again, and it alone"
    assert sorted(path.name for path in out.glob("*.png")) == [f"0000{n}.png" for n in range(1, 6)]
    assert (out / "00002.png").read_text() == "00002.png ['0', '1']"


def test_a_line_that_a_crash_cut_off_is_ignored(tmp_path: Path) -> None:
    job, out = job_of(tmp_path, {"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}), tmp_path / "out"
    finish(job, out)
    journal = out / "job/done.jsonl"
    *most, last = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(most) + last[:20])
    assert [event.batch.lines for event in finish(job, out)] == [(3,)]
    assert journal.read_text() == "".join(most) + f"{last[:20]}\n{last}"
    assert finish(job, out) == []


def test_temporary_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    job, out = job_of(tmp_path, {"prompt": "a"}), tmp_path / "out"
    out.mkdir()
    (out / "00001.pngabc.part").write_text("half")
    (out / "00002.pngabc.part").write_text("of something else")
    (out / "job").mkdir()
    (out / "job/00001.pngabc.part").write_text("half")
    finish(job, out)
    assert sorted(path.name for path in out.iterdir()) == ["00001.png", "00002.pngabc.part", "job"]
    assert sorted(path.name for path in (out / "job").iterdir()) == ["claims", "done.jsonl", "plan.json"]


def test_temporary_files_of_other_processes_stay(tmp_path: Path) -> None:
    """Images of long names whose beginnings are alike are written by several processes at once."""
    lines = [{"prompt": "a", "output": f"{'a lighthouse ' * 5}{n}.png"} for n in range(2)]
    job, out = job_of(tmp_path, *lines), tmp_path / "out"
    with open_folder(out, job, 7) as folder:
        first, second = folder.claim(folder.pending(folder.batches(1)))
        assert len(first.files[0]) > 60
        _, temporary = open_part(out / first.files[0], out / "job")
        folder._clean(second)
        assert Path(temporary).exists()
        folder._clean(first)
        assert not Path(temporary).exists()


def test_the_images_of_a_folder_are_not_listed_for_each_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, out = job_of(tmp_path, *({"prompt": each} for each in "abcde")), tmp_path / "out"
    listed, listdir = list[Path](), os.listdir

    def noted(path: Any) -> list[str]:
        listed.append(Path(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", noted)
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail("a folder is listed"))
    with open_folder(out, job, 7) as folder:
        for batch in folder.claim(folder.pending(folder.batches(1))):
            folder.finish(batch, [b"x"])
            folder.release(batch)
    assert listed.count(out) == 1 and len(job.files) == 5


def test_another_job_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finish(job_of(tmp_path, {"prompt": "a"}), out)
    with pytest.raises(OutputError, match="holds another job"):
        finish(job_of(tmp_path, {"prompt": "b"}), out)
    assert (out / "00001.png").read_text() == "00001.png a"
    (out / "job/plan.json").write_text("{}")
    with pytest.raises(OutputError, match="damaged"):
        finish(job_of(tmp_path, {"prompt": "a"}), out)
    other = tmp_path / "other"
    other.mkdir()
    (other / "00001.png").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        finish(job_of(tmp_path, {"prompt": "a"}), other)
    assert (other / "00001.png").read_text() == "mine"


def test_a_job_may_grow_and_be_corrected(tmp_path: Path) -> None:
    """Finished images stay, and so do their seeds."""
    out = tmp_path / "out"
    finish(job_of(tmp_path, {"prompt": "a", "steps": 0}), out)  # no image can be generated: any job may follow
    finish(job_of(tmp_path, *({"prompt": name, "steps": 5} for name in "ab"), '{"promt": "c"}', {"prompt": "d"}), out)
    more = (
        *({"prompt": name, "steps": 5} for name in "ab"),
        {"prompt": "c", "steps": 3},
        {"prompt": "d"},
        {"prompt": "e", "steps": 4},
    )
    assert [event.batch.lines for event in finish(job_of(tmp_path, *more), out)] == [(3,), (5,)]
    with pytest.raises(OutputError, match=r"holds another job: .* 00001.png would be another image"):
        finish(job_of(tmp_path, {"prompt": "other", "steps": 5}, *more[1:]), out)
    for others in (
        job_of(tmp_path, *more, defaults={"guidance_rescale": 0.5}),
        job_of(tmp_path, *more, model="another"),
    ):
        with pytest.raises(OutputError, match=r"00001\.png would be another image"):
            open_folder(out, others, 7)
    with pytest.raises(OutputError, match=r"00001\.png would be another image"):
        open_folder(out, replace(job_of(tmp_path, *more), fingerprint="of another seed"), 8)
    (out / "00001.png").unlink()
    other = {"prompt": "other", "steps": 5}
    assert [event.batch.lines for event in finish(job_of(tmp_path, other, *more[1:]), out)] == [(1,)]
    corrected = *more[1:3], {"prompt": "D"}, more[4]  # what was there under the old line counts no more
    (out / "00004.png").unlink()
    assert [event.batch.lines for event in finish(job_of(tmp_path, other, *corrected), out)] == [(4,)]


def test_a_job_is_not_changed_under_another_process(tmp_path: Path) -> None:
    job, out = job_of(tmp_path, {"prompt": "a"}), tmp_path / "out"
    with open_folder(out, job, 1) as job_folder:
        open_folder(out, job_of(tmp_path, {"prompt": "b"}), 1).claims.close()  # in this process no lock is in its way
        with pytest.raises(OutputError, match="belongs to another job now"):
            next(job_folder.claim(job.batches(2, 1)))


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    """Images are written inside the folder, whatever has their names there."""
    job, out = job_of(tmp_path, {"prompt": "a"}), tmp_path / "out"
    with open_folder(out, job, 1):
        pass
    (tmp_path / "precious").write_text("mine")
    (out / "00001.png").symlink_to(tmp_path / "precious")
    finish(job, out)
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (out / "00001.png").is_symlink()


def test_the_job_continues_after_images_that_cannot_be_opened(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"prompt": "a"}, {"prompt": "b", "image": "none.png"})
    events = finish(job, tmp_path / "out")
    assert [(event.done, event.batch.lines) for event in events] == [(1, (1,)), (1, (2,))]
    assert "none.png does not exist" in str(events[1].error)


def test_the_job_continues_after_a_failed_batch(tmp_path: Path) -> None:
    job, out = job_of(tmp_path, {"prompt": "a"}, {"prompt": "b", "steps": 3}), tmp_path / "out"

    def failing(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Outcome]]:
        for batch, images in pretend(batches):
            yield batch, NonFiniteError("black") if batch.lines == (1,) else images

    events = finish(job, out, failing)
    assert [(event.done, str(event.error)) for event in events] == [(0, "black"), (1, "None")]
    assert [event.batch.lines for event in finish(job, out)] == [(1,)]


def test_an_error_of_torch_is_reported() -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError("shape mismatch\nstack")

    outcome = draw(broken, Batch((), {"prompt": "a"}))  # type: ignore[arg-type]
    assert "shape mismatch" in str(outcome) and isinstance(outcome, sdxl.SDXLError)


# ---- the command line ------------------------------------------------------------------------------------------------


def command(folder: Path, job: Path, *more: str, model: str = "miniature") -> list[str]:
    flags = ["--model", model, "--batch", str(job), "--output-dir", str(folder), "--device", "cpu", "--quiet"]
    return ["generate", *flags, "--seed", "1", "--dtype", "float32", *more]


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_job_generates_the_images_of_single_commands(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.effect_noise((64, 64), 90).save(tmp_path / "noise.png")
    lines = [
        {"prompt": "a red cat", "seed": 11},
        {"prompt": "a dog", "image": "noise.png", "strength": 0.75, "output": "dog.png"},
        {"prompt": "a dog", "image": "none.png"},
        {"prompt": "a dog", "width": 63},
    ]
    job, out = write_lines(tmp_path / "job.jsonl", lines), tmp_path / "out"
    assert main(command(out, job, "--steps", "4", model=str(tiny_folder))) == 1
    printed = capsys.readouterr()
    assert printed.out == f"2 of 4 images are in {out}; 2 lines failed\n"
    assert f"line 3 of {job}: image {tmp_path / 'none.png'} does not exist" in printed.err
    assert f"line 4 of {job}: width is 63" in printed.err
    for name, flags in (
        ("00001.png", ["--prompt", "a red cat", "--seed", "11"]),
        ("dog.png", ["--prompt", "a dog", "--image", str(tmp_path / "noise.png"), "--strength", "0.75", "--seed", "2"]),
    ):
        single = ["generate", "--model", str(tiny_folder), "--device", "cpu", "--quiet", "--dtype", "float32"]
        assert main([*single, *flags, "--steps", "4", "--output", str(tmp_path / name)]) == 0
        with Image.open(out / name) as ours, Image.open(tmp_path / name) as alone:
            assert ours.tobytes() == alone.tobytes()
            assert json.loads(ours.text["sdxl"])["request"] == json.loads(alone.text["sdxl"])["request"]


def test_a_job_from_the_standard_input(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the same job as that of a file in this folder."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("black.png")
    lines = [{"prompt": "a"}, {"prompt": "b", "image": "black.png", "strength": 0.9}, {"prompt": "c", "width": 63}]
    arguments = ["--steps", "2", "--num-images", "1"]

    def run(job: str) -> tuple[int, str]:
        return main(command(Path("out"), Path(job), *arguments, model=str(tiny_folder))), capsys.readouterr().err

    def give(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    write_lines(Path("job.jsonl"), lines)
    give(Path("job.jsonl").read_bytes())
    status, printed = run("-")
    assert (status, "line 3 of the standard input: width is 63" in printed) == (1, True)
    images = images_of(Path("out"))
    assert sorted(images) == ["00001.png", "00002.png"]
    assert run("job.jsonl")[0] == 1
    assert images_of(Path("out")) == images
    assert len(Path("out/job/done.jsonl").read_text().splitlines()) == 2, "nothing was generated again"
    give(b"\xff")
    assert run("-") == (
        2,
        "error: the standard input cannot be read (line 1 is not in UTF-8); give JSON lines in UTF-8\n",
    )
    monkeypatch.setattr("sys.stdin", None)  # it is closed
    status, printed = run("-")
    assert (status, "the standard input cannot be read (it is closed)" in printed) == (2, True)


def test_what_fails_is_printed_in_plain_letters(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Terminals obey some of them, and a path may be of any length."""
    lines = [
        {"prompt": "a", "image": "\x1b[31mred\u202e.png"},
        {"prompt": "a", "image": "x" * 10**5 + ".png"},
        {"prompt": "a", "mask": "\x1b[31m" * 10**4, "image": "none.png"},
        {"prompt": "a", "width": 64, "sampler": "\x1b[31m" * 10**5},
    ]
    job = write_lines(tmp_path / "job.jsonl", lines)
    assert main(command(tmp_path / "out", job, "--steps", "2", model=str(tiny_folder))) == 1
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 4 and all(map(str.isprintable, printed)) and max(map(len, printed)) < 2100
    assert any(r"\x1b[31mred\u202e.png does not exist" in line for line in printed)


def test_workers_without_ray(tiny_folder: Path, tmp_path: Path) -> None:
    job = write_lines(tmp_path / "job.jsonl", [{"prompt": "a"}])
    with pytest.warns(SDXLWarning, match="--workers has no effect"):
        main(command(tmp_path / "out", job, "--steps", "1", "--workers", "2", model=str(tiny_folder)))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--output", "a.png"], "excludes --output"),
        (["--from", "a.png"], "excludes --output and --from"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--seed", "2"], "--seed is given several times"),
        (["--steps", "0"], "error: steps is 0"),
    ],
)
def test_flags_that_do_not_go_together(
    more: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_lines(tmp_path / "job.jsonl", [{"prompt": "a"}])
    assert main(command(tmp_path / "out", job, *more)) == 2
    assert sentence in capsys.readouterr().err


def images_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def start(folder: Path, job: Path, *more: str, most: int | None = None) -> subprocess.Popen[str]:
    """The command in a process of its own, which may write files of at most `most` bytes."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell starts background processes that ignore it
        if most is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    arguments = [sys.executable, "-m", "sdxl", *command(folder, job, "--batch-size", "2", *more)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=prepare)


def wait_for(folder: Path, batches: int, process: subprocess.Popen[str]) -> None:
    """Until so many batches are recorded."""
    journal = folder / "job/done.jsonl"
    while not journal.exists() or len(journal.read_text().splitlines()) < 2 * batches:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def long_job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A job of 24 images, and the images of an uninterrupted run."""
    root = tmp_path_factory.mktemp("long")
    shapes = [f"a {colour} circle on a white background" for colour in ("red", "green", "blue")]
    lines = [{"prompt": shapes[n % 3], "steps": 6 + n % 2, "width": 64, "height": 64} for n in range(24)]
    job = write_lines(root / "job.jsonl", lines)
    assert start(root / "out", job).wait() == 0
    return job, images_of(root / "out")


@pytest.mark.slow
@pytest.mark.parametrize(("how", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)], ids=["kill -9", "ctrl-c"])
def test_a_stopped_job_is_resumed(
    how: signal.Signals, status: int, long_job: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    job, images = long_job
    process = start(tmp_path / "out", job)
    wait_for(tmp_path / "out", 4, process)
    process.send_signal(how)
    _, printed = process.communicate()
    assert process.returncode == status
    assert "Traceback" not in printed
    if how is signal.SIGINT:
        assert "the same command resumes the job" in printed
        assert not list((tmp_path / "out").rglob("*.part"))
    assert 8 <= len(list((tmp_path / "out").glob("*.png"))) < 24
    assert start(tmp_path / "out", job).wait() == 0
    assert images_of(tmp_path / "out") == images


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed(long_job: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    job, images = long_job
    first, second = (start(tmp_path / "out", job) for _ in range(2))
    wait_for(tmp_path / "out", 3, first)
    first.kill()
    first.wait()
    assert second.wait() == 0, "the other process finishes the job"
    assert images_of(tmp_path / "out") == images
    journal = (tmp_path / "out/job/done.jsonl").read_text().splitlines()
    files = [file for line in journal for file in json.loads(line)["files"]]
    assert sorted(files) == sorted(images), "each image once"


@pytest.mark.slow
def test_ray_with_a_worker_killed(long_job: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    job, images = long_job
    process = start(tmp_path / "out", job, "--engine", "ray", "--workers", "2")
    wait_for(tmp_path / "out", 2, process)
    parents = subprocess.run(["pgrep", "-f", "^ray::Worker"], capture_output=True, text=True, check=False)
    os.kill(int(parents.stdout.split()[0]), signal.SIGKILL)
    assert process.wait() == 0
    assert images_of(tmp_path / "out") == images


@pytest.mark.slow
def test_too_many_workers(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    job = write_lines(tmp_path / "job.jsonl", [{"prompt": "a"}])
    process = start(tmp_path / "out", job, "--engine", "ray", "--workers", "1000")
    try:
        _, printed = process.communicate(timeout=300)
    finally:
        process.kill()  # if it waits forever
    assert process.returncode == 2
    assert "workers is 1000; the cluster has" in printed


def test_a_missing_model_file_ends_the_job(tmp_path: Path) -> None:
    """An error that no batch causes is not repeated for ten thousand lines."""

    def gone(**_: Any) -> None:
        raise CheckpointError("model.safetensors is not a file; check the path")

    with pytest.raises(CheckpointError):
        finish(job_of(tmp_path, {"prompt": "a"}), tmp_path / "out", local(gone, overlap=False))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_job_is_resumed_later(
    long_job: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    job, images = long_job
    process = start(tmp_path / "out", job, most=min(map(len, images.values())) - 1)
    _, printed = process.communicate()
    assert process.returncode == 1
    assert printed.splitlines()[-1].startswith(
        f"error: {tmp_path / 'out/00001.png'} cannot be written: File too large;"
    )
    assert "free some space and run the same command again" in printed
    assert not list((tmp_path / "out").glob("*.p*")), "neither a partial image nor a temporary file"
    assert start(tmp_path / "out", job).wait() == 0
    assert images_of(tmp_path / "out") == images
