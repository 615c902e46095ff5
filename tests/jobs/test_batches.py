"""Batches of a job: which images share one, how many, in how much memory; and that each is what it would be alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sdxl
from sdxl.cli.main import main
from sdxl.errors import OutOfMemoryError, SDXLWarning
from sdxl.jobs.engine import Outcome, draw, fitting, local, work
from sdxl.jobs.folder import open_folder
from sdxl.jobs.job import Batch, Job, parse_job
from sdxl.pipeline import Request
from sdxl.pipeline.batch_sizes import MOST, BatchSizes
from sdxl.pipeline.residency import Residency
from sdxl.runtime import memory
from sdxl.text import TextCache
from sdxl.text.chunks import Reading

HEART = Path(__file__).parents[2] / "weights/adapters/heart.safetensors"
Names = list[tuple[str, ...]]
Engine = Callable[[Iterator[Batch]], Iterator[tuple[Batch, Outcome]]]
CHUNKED = Reading(truncates=False)


@pytest.fixture(scope="module")
def pipe() -> sdxl.Pipeline:
    """The miniature, which knows a LoRA."""
    return sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")


def job_of(*lines: dict[str, Any]) -> Job:
    return parse_job("\n".join(map(json.dumps, lines)), Path(), {}, {"model": "m"})


def finish(job: Job, out: Path, engine: Engine, *sizes: Any) -> Names:
    """Work on a job until it is done; the files of the batches that were asked for."""
    asked: Names = []

    def noted(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Outcome]]:
        def each() -> Iterator[Batch]:
            for batch in batches:
                asked.append(batch.files)
                yield batch

        return engine(each())

    with open_folder(out, job, 7) as folder:
        list(work(folder.batches(MOST), folder, noted, *sizes))
        assert folder.count_done() == len(job.files)
    return asked


def names(*numbers: int) -> tuple[str, ...]:
    return tuple(f"{n:05}.png" for n in numbers)


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


# ---- how many --------------------------------------------------------------------------------------------------------


def sizes_of(seconds: Callable[[int], float], most: int = MOST, calls: int = 40) -> list[int]:
    """The sizes of the batches of a long job, whose calls of n images take `seconds(n)`."""
    sizes, taken = BatchSizes(), []
    for _ in range(calls):
        size = sizes.limit("kind", lambda asked: min(asked, most))
        sizes.record("kind", size, seconds(size))
        taken.append(size)
    return taken


def test_batches_grow_as_long_as_each_image_takes_less_time() -> None:
    gpu = sizes_of(lambda n: max(0.4, 0.1 * n))  # busy with four
    assert gpu[:8] == [1, 1, 2, 2, 4, 4, 8, 8] and set(gpu[8:]) == {4}
    cpu = sizes_of(lambda n: 0.05 + 2.0 * n)
    assert cpu[:4] == [1, 1, 2, 2] and set(cpu[4:]) == {1}
    assert set(sizes_of(lambda n: 5.0 + 6.0 * n)) == {1}, "an image of 11 s keeps any device busy"
    assert max(sizes_of(lambda n: 1.0)) == MOST
    assert set(sizes_of(lambda n: 1.0, most=8)[6:]) == {8}, "as many as memory has room for"


def test_the_first_call_of_a_size_warms_up() -> None:
    calls = dict[int, int]()

    def seconds(n: int) -> float:
        calls[n] = calls.get(n, 0) + 1
        return n + (100.0 if calls[n] == 1 else 0.0)

    assert set(sizes_of(seconds)[4:]) == {1}


def test_kinds_of_images_have_sizes_of_their_own() -> None:
    sizes = BatchSizes(8)
    with pytest.warns(SDXLWarning, match="by an estimate"):
        assert sizes.limit("large", lambda most: 2) == 2
    assert sizes.limit("small") == 8
    assert sizes.halve("small", 8) == 4
    assert (sizes.limit("large"), sizes.limit("small"), sizes.limit("other")) == (2, 4, 8)
    assert sizes.halve("small", 1) == 1


def test_a_long_life_takes_bounded_memory() -> None:
    sizes = BatchSizes()
    for n in range(3000):
        sizes.limit(f"kind {n % 1500}")
        sizes.record("kind 1499", 1, 1.0 + n / 1000)
    assert len(sizes._most) <= 1000 and len(sizes._seconds) <= 1
    assert all(len(times) <= 2 for times in sizes._seconds["kind 1499"].values())
    assert sizes.limit("kind 1499") == 2, "the newest is not forgotten"


def test_images_that_are_refused_say_nothing_of_memory(
    tiny_pipe: sdxl.Pipeline, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    job = job_of(*[{"prompt": each, "width": 65, "steps": 1} for each in "abcd"])
    sizes = BatchSizes(4)
    with open_folder(tmp_path, job, 7) as folder:
        engine, fits = local(tiny_pipe, sizes), lambda *each: fitting(tiny_pipe, *each)
        errors = [str(event.error) for event in work(folder.batches(4), folder, engine, sizes, fits)]
    assert len(errors) == 4 and all("multiple of" in each for each in errors)
    assert not [str(each.message) for each in recwarn if "memory" in str(each.message)]


def test_as_many_as_memory_has_room_for(tiny_pipe: sdxl.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is that which refuses a call: as many fit as a call of a quarter more would be let through with."""
    request, residency = Request("a cat", height=64, width=64), tiny_pipe.residency

    def is_let_through(count: int) -> bool:
        try:
            residency.fit(tiny_pipe.plan(replace(request, num_images=count)))
        except OutOfMemoryError:
            return False
        return True

    config, at = tiny_pipe.info.config, residency.model.placement
    image = memory.unet_bytes(config.unet, 2, (8 * 8 // config.vae.factor,) * 2, at)
    assert image > memory.vae_bytes(config.vae, (64, 64), at, in_strips=True) / 30
    for images in (0.5, 3, 40, 41, 100):
        monkeypatch.setattr(Residency, "room", lambda _, images=images: images * image)
        found = tiny_pipe.most_images(request, 64)
        assert found in (1, 2, 4, 8, 16, 32, 64)
        assert found == 1 or is_let_through(math.ceil(1.25 * found))
        assert found == 64 or not is_let_through(math.ceil(1.25 * 2 * found))
    assert tiny_pipe.most_images(request, 64) == 64
    unguided = replace(request, guidance_scale=1.0)
    monkeypatch.setattr(Residency, "room", lambda _: 50 * image)
    assert (tiny_pipe.most_images(request, 64), tiny_pipe.most_images(unguided, 64)) == (32, 64)


def test_more_than_memory_has_room_for_is_said(
    tiny_pipe: sdxl.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(*[{"prompt": each, "steps": 1, "width": 64, "height": 64} for each in "abcd"])
    monkeypatch.setattr(tiny_pipe, "most_images", lambda request, most: 2)
    sizes = BatchSizes(4)
    with pytest.warns(SDXLWarning, match="^4 images at once need more memory than is free, by an estimate; .* with 2"):
        asked = finish(job, tmp_path, local(tiny_pipe, sizes), sizes, lambda *each: fitting(tiny_pipe, *each))
    assert asked == [names(1, 2), names(3, 4)]


# ---- what shares a batch, and that it is the same --------------------------------------------------------------------

SCENE = {"width": 64, "height": 64, "steps": 2}
LINES: list[dict[str, Any]] = [
    {"prompt": "a red circle", **SCENE},
    {"prompt": "a blue star on a green background", "seed": 5, **SCENE},
    {"prompt": "a red circle", "guidance_scale": 3.0, **SCENE},
    {"prompt": "a red heart", "loras": [str(HEART)], **SCENE},
    {"prompt": "a green square", **SCENE},
    {"prompt": "a red circle", **SCENE, "width": 96},
    {"prompt": "a blue heart", "loras": [str(HEART)], "seed": 9, **SCENE},
    {"prompt": "a heart", "loras": [{"file": str(HEART), "weight": 0.5}], **SCENE},
    {"prompt": "a green star", "guidance_scale": 3.0, **SCENE},
    {"prompt": "a red circle", "negative_prompt": "blue", **SCENE},
    {"prompt": ["a red star", "a blue circle"], "num_images": 2, "seed": 20, **SCENE},
    {"prompt": "a red circle", "sampler": "dpmpp_sde", **SCENE},
    {"prompt": "a blue circle", "sampler": "dpmpp_sde", "seed": 3, **SCENE},
]
SHARED = [
    (*names(1, 2, 5), *(f"00011-{n}.png" for n in (1, 2, 3, 4))),
    names(3, 9),
    names(4, 7),
    names(6),
    names(8),
    names(10),
    names(12, 13),
]


@pytest.mark.parametrize("overlap", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_images_that_share_a_batch_are_those_of_single_calls(
    overlap: bool, pipe: sdxl.Pipeline, tmp_path: Path
) -> None:
    """Also where their files are encoded beside the next batch, as on a GPU."""
    job = job_of(*LINES)
    pipe.prepare_for_many()
    assert sorted(finish(job, tmp_path, local(pipe, overlap=overlap))) == sorted(SHARED)
    first = {item.files[0]: item for item in job.items}
    for file in job.files:
        item = first[file]
        alone = pipe(**item.arguments | {"seed": item.seeds(7)}, progress=False)
        difference = np.abs(pixels(tmp_path / file) - np.asarray(alone.images[0]).astype(int))
        assert difference.max() <= 1, file
        record = sdxl.read_parameters(tmp_path / file)["request"]
        assert record == json.loads(json.dumps(alone.parameters[0]["request"]))
    pipe.set_loras([])


NOISE: list[tuple[dict[str, Any], int]] = [
    # one generator for the images of a line: each has a place in that batch, and stands alone in the job's
    ({"compat": "diffusers", "num_images": 2, "seed": 5}, 4),
    # a generator for each, and those of a line share the posterior of their source image
    ({"compat": "diffusers", "num_images": 2, "seed": [5, 6], "image": "a.png", "mask": "m.png"}, 4),
    ({"num_images": 2, "seed": 5, "image": "a.png", "mask": "m.png"}, 1),
]


@pytest.mark.parametrize(("arguments", "calls"), NOISE)
def test_images_whose_noise_depends_on_others(
    arguments: dict[str, Any], calls: int, tiny_pipe: sdxl.Pipeline, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.new("L", (64, 64), 255).crop((-20, -20, 44, 44)).save(tmp_path / "m.png")
    lines = [{"prompt": prompt, "steps": 3, **arguments} for prompt in ("a cat", "a dog")]
    lines[1]["seed"] = [8, 9] if isinstance(arguments["seed"], list) else 8
    job = parse_job("\n".join(map(json.dumps, lines)), tmp_path, {}, {"model": "m"})
    assert len(finish(job, tmp_path / "out", local(tiny_pipe))) == calls
    sources = {name: str(tmp_path / arguments[name]) for name in ("image", "mask") if name in arguments}
    for number, line in enumerate(lines, 1):
        result = tiny_pipe(**line | sources, progress=False)
        for place, image in enumerate(result.images, 1):
            found = pixels(tmp_path / f"out/{number:05}-{place}.png")
            assert np.abs(found - np.asarray(image).astype(int)).max() <= 1


def test_texts_of_a_batch_are_encoded_in_one_pass(tiny_pipe: sdxl.Pipeline) -> None:
    stages, asked = tiny_pipe.text, []

    def load() -> Any:
        asked.append(1)
        return stages

    long = "a cat " * 60
    prompts = ["a cat", long, "a dog", "a cat", ""]
    apart, together = TextCache(), TextCache(together=True)
    with torch.no_grad():
        wanted = apart.encode(lambda: stages, prompts, prompts, 0, CHUNKED)
        found = together.encode(load, prompts, prompts, 0, CHUNKED)
        assert asked == [1]
        again = together.encode(load, prompts[::-1], prompts[::-1], 0, CHUNKED)
        assert asked == [1], "each text is encoded once"
        small = TextCache(most=2)
        kept = small.encode(load, prompts, prompts, 0, CHUNKED)
    for ours, theirs, back, few in zip(found[0], wanted[0], again[0][::-1], kept[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        assert torch.equal(ours, back) and torch.equal(few, theirs)
    torch.testing.assert_close(found[1], wanted[1], rtol=0, atol=1e-5)
    assert len(small._rows) == 2


# ---- where memory runs out -------------------------------------------------------------------------------------------


def short_of_memory(pipe: sdxl.Pipeline, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the UNet run out of memory with more than so many rows."""
    predict = type(pipe.unet).predict

    def failing(self: Any, x: torch.Tensor, *more: Any, **options: Any) -> torch.Tensor:
        if len(x) > rows:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return predict(self, x, *more, **options)

    monkeypatch.setattr(type(pipe.unet), "predict", failing)


@pytest.mark.parametrize("overlap", [False, True])
def test_where_memory_runs_out_batches_are_halved(
    overlap: bool, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the model stays as it is, although it may shrink."""
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload="auto")
    pipe.prepare_for_many()
    lines = [{"prompt": f"{n}", "steps": 2, "width": 64, "height": 64} for n in range(9)]
    lines.append({"prompt": "more steps", "steps": 3, "width": 64, "height": 64})
    short_of_memory(pipe, 4, monkeypatch)  # two images with guidance
    with pytest.warns(SDXLWarning) as warned:
        asked = finish(job_of(*lines), tmp_path / "out", local(pipe, overlap=overlap), BatchSizes(9))
    assert [str(each.message) for each in warned] == [
        "memory ran out with 9 images at once; going on with 4",
        "memory ran out with 4 images at once; going on with 2",
    ]
    done = [batch for batch in asked if len(batch) <= 2]
    assert sorted(file for batch in done for file in batch) == sorted(names(*range(1, 11)))
    assert len(done) == 6 and pipe.offload == "none"
    monkeypatch.undo()
    for number in (1, 9, 10):
        alone = pipe(**lines[number - 1], seed=6 + number, progress=False).images[0]
        assert np.abs(pixels(tmp_path / "out" / names(number)[0]) - np.asarray(alone).astype(int)).max() <= 1


def test_an_image_that_fits_nowhere_fails_alone(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu")
    job = job_of(*[{"prompt": each, "steps": 1, "width": 64, "height": 64} for each in "ab"])
    short_of_memory(pipe, 1, monkeypatch)
    with open_folder(tmp_path, job, 7) as folder, pytest.warns(SDXLWarning, match="going on with 1"):
        events = list(work(folder.batches(2), folder, local(pipe)))
    assert [event.batch and event.batch.files for event in events] == [names(1), names(2)]
    together = draw(pipe, job.batches(2, 7)[0])
    for error in (together, *(event.error for event in events)):
        assert isinstance(error, OutOfMemoryError)
        # the frames of the work, which hold its memory, are gone
        assert error.__traceback__ is None
        assert error.__cause__ is None
        assert error.__context__ is None


@pytest.mark.parametrize("moment", ["while it is generated", "while its sources are opened"])
def test_an_interrupt_loses_no_image_that_is_generated(moment: str, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    job = job_of(*[{"prompt": each, "steps": 1, "width": 64, "height": 64} for each in "abc"])
    engine, begun = local(tiny_pipe, overlap=True), 0

    def interrupted(step: object) -> None:
        nonlocal begun
        begun += 1
        if begun == 3:
            raise KeyboardInterrupt

    def opened(batch: Batch) -> Batch:
        if moment == "while its sources are opened":
            interrupted(batch)
            return batch
        return replace(batch, arguments=batch.arguments | {"callback": interrupted})

    def with_callback(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Outcome]]:
        return engine(map(opened, batches))

    with open_folder(tmp_path, job, 7) as folder:
        with pytest.raises(KeyboardInterrupt):
            list(work(folder.batches(1), folder, with_callback))
        assert folder.count_done() == 2


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_finds_the_size_by_trial(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record, counts = BatchSizes.record, list[int]()

    def noted(self: BatchSizes, kind: str, count: int, seconds: float) -> None:
        counts.append(count)
        record(self, kind, count, 1.0)  # as if several images took as long as one

    monkeypatch.setattr(BatchSizes, "record", noted)
    lines = tmp_path / "job.jsonl"
    lines.write_text("".join(f'{{"prompt": "{n}"}}\n' for n in range(9)))
    flags = ["--model", str(tiny_folder), "--device", "cpu", "--dtype", "float32", "--quiet", "--json"]
    flags += ["--steps", "1", "--width", "64", "--height", "64", "--batch-size", "auto"]
    assert main(["generate", "--batch", str(lines), "--output-dir", str(tmp_path / "out"), *flags]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 9 and "9 of 9 images" in printed.err
    assert counts == [1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--batch-size", "0"], "--batch-size is 0; expected a number of at least 1, or auto"),
        (["--batch-size", "many"], "--batch-size is many"),
        (["--batch-size", "auto", "--engine", "ray"], "--batch-size is auto with --engine ray"),
    ],
)
def test_sizes_that_cannot_be(
    flags: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.jsonl").write_text('{"prompt": "a"}\n')
    job = ["generate", "--batch", str(tmp_path / "job.jsonl"), "--output-dir", str(tmp_path / "out")]
    assert main([*job, *flags]) == 2
    assert sentence in capsys.readouterr().err
