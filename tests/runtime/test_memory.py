"""Memory: what is refused before work begins, what is done when it runs out, what is left after many images."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import sdxl
from sdxl.errors import NonFiniteError, OutOfMemoryError, SDXLWarning
from sdxl.models.published import BASE
from sdxl.models.unet import UNet
from sdxl.models.vae import VAE
from sdxl.pipeline.model import Model
from sdxl.runtime import memory, system_memory
from sdxl.runtime.cuda_graph import Graph, Graphs
from sdxl.runtime.lazy import Lazy
from sdxl.runtime.placement import Placement
from sdxl.text.chunks import Reading
from sdxl.text.encode import TextCache

QUICK: dict[str, Any] = {"steps": 2, "progress": False, "seed": 3}
CPU = torch.device("cpu")


def load(model: Path, **options: Any) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained(model, **{"dtype": "float32", "device": "cpu", **options})


# ---- before work -----------------------------------------------------------------------------------------------------


def test_what_cannot_fit_is_refused_before_work(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load(tiny_folder)
    monkeypatch.setattr("sdxl.pipeline.residency.available", lambda _: 10e6)
    monkeypatch.setattr(UNet, "predict", lambda *_: pytest.fail("work has begun"))
    with pytest.raises(OutOfMemoryError, match=r"2 of 4096 x 4096 at once need .* GB .* fit, or fewer .* or offload s"):
        pipe("cat", width=4096, height=4096, num_images=2, **QUICK)
    with pytest.raises(OutOfMemoryError, match=r"an image of 4096 x 4096 needs .* GB are free; try \d+ x \d+"):
        pipe.steps("cat", width=4096, height=4096)


def test_a_model_that_cannot_fit_is_not_loaded(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda _: 300e3)
    monkeypatch.setattr("sdxl.pipeline.model.Model.load", lambda _: pytest.fail("it is being loaded"))
    with pytest.raises(
        OutOfMemoryError, match=r"takes 0.002\d GB with offload none, and 0.0003 GB are free; try .*block"
    ):
        load(tiny_folder)
    monkeypatch.undo()
    assert load(tiny_folder, offload="block").offload == "block"
    with pytest.raises(OutOfMemoryError, match=r"with offload none, and 0.0003 GB are free"):
        load(tiny_folder, max_memory=300_000)


def test_auto_makes_room_by_itself(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load(tiny_folder, offload="auto")
    most = max(pipe.residency.loader.bytes())  # type: ignore[union-attr]
    monkeypatch.setattr("sdxl.pipeline.residency.available", lambda _: most + 1e5)
    with pytest.warns(SDXLWarning, match="an image of 64 x 64 needs .*; going on with block"):
        assert len(pipe("cat", **QUICK).images) == 1


def test_what_it_says_would_fit_does(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load(tiny_folder)
    monkeypatch.setattr("sdxl.pipeline.residency.available", lambda _: 10e6)
    with pytest.raises(OutOfMemoryError) as refused:
        pipe("cat", width=1024, height=1024, **QUICK)
    side = int(str(refused.value).split("try ")[1].split(" x ")[0])
    assert 64 <= side < 1024
    assert len(pipe("cat", width=side, height=side, **QUICK).images) == 1


def test_a_limit_counts_what_is_taken(tiny_folder: Path) -> None:
    pipe = load(tiny_folder, max_memory=memory.used(CPU) + 10**6)
    with pytest.raises(OutOfMemoryError, match="needs"):
        pipe("cat", width=1024, height=1024, **QUICK)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux does it")
def test_memory_goes_back_in_the_words_of_each_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    glibc = {"malloc_trim": lambda _: called.append("glibc")}
    tcmalloc = {"MallocExtension_ReleaseFreeMemory": lambda: called.append("tcmalloc")}
    symbols: dict[str, Any]
    for symbols in (glibc, glibc | tcmalloc, {}):
        monkeypatch.setattr("ctypes.CDLL", lambda _, symbols=symbols: SimpleNamespace(**symbols))
        memory.trim()
    assert called == ["glibc", "tcmalloc"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux does it")
def test_what_an_allocator_keeps_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def numeric(name: bytes, count: Any) -> None:
        assert name == b"tcmalloc.pageheap_free_bytes"
        count._obj.value = 123

    monkeypatch.setattr(system_memory, "table", lambda path, _: ["8 kB"] if path == "/proc/meminfo" else [])
    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace())
    assert memory.available(CPU) == 8192
    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace(MallocExtension_GetNumericProperty=numeric))
    assert memory.available(CPU) == 8192 + 123


# ---- in the middle ---------------------------------------------------------------------------------------------------

WORDS = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("could not create a primitive"),
]


def fail_first(method: Callable[..., Any], times: int, error: Exception) -> Callable[..., Any]:
    """The method, which fails at first."""
    left = [error] * times

    def failing(*given: Any, **more: Any) -> Any:
        if left:
            raise left.pop()
        return method(*given, **more)

    return failing


@pytest.mark.parametrize("error", WORDS, ids=["CPU", "CUDA", "Python", "oneDNN"])
def test_auto_goes_on_with_less(error: Exception, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load(tiny_folder, offload="block")("cat", output="tensor", **QUICK).images
    pipe = load(tiny_folder, offload="auto")
    assert pipe.offload == "stage"
    monkeypatch.setattr(UNet, "predict", fail_first(UNet.predict, 1, error))
    with pytest.warns(SDXLWarning, match="memory ran out with offload stage; going on with block"):
        result = pipe("cat", output="tensor", **QUICK)
    assert pipe.offload == "block"
    assert torch.equal(result.images, expected)


@pytest.mark.parametrize("error", WORDS, ids=["CPU", "CUDA", "Python", "oneDNN"])
def test_a_vae_without_room_for_the_whole_works_in_strips(
    error: Exception, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = load(tiny_folder)
    pixels, z = torch.rand(2, 3, 64, 64), torch.randn(2, 4, 8, 8)
    whole = pipe.encode(pixels), pipe.decode(z)
    for name in ("encode", "decode"):
        monkeypatch.setattr(VAE, name, fail_first(getattr(VAE, name), 1000, error))
    in_strips = pipe.encode(pixels), pipe.decode(z)
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(whole, in_strips, strict=True))
    assert pipe.offload == "none"
    monkeypatch.setattr(VAE, "decode", fail_first(VAE.decode, 1, RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        pipe.decode(z)


def test_several_pictures_are_encoded_in_strips_where_one_would_fit(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = load(tiny_folder)
    one = memory.vae_bytes(pipe.info.config.vae, (64, 64), pipe.experts[0].placement)
    monkeypatch.setattr("sdxl.pipeline.residency.available", lambda _: 1.5 * one)
    monkeypatch.setattr("sdxl.pipeline.latents.encode_strips", lambda *_: pytest.fail("in strips"))
    pipe.encode(torch.rand(1, 3, 64, 64))
    with pytest.raises(pytest.fail.Exception, match="in strips"):
        pipe.encode(torch.rand(2, 3, 64, 64))


def test_a_graph_gives_way(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is for the work that is asked for, and so it is not taken for missing."""
    pipe = load(tiny_folder)
    graphs = Graphs()
    graphs._graphs[1] = Graph()
    pipe.residency.model = replace(pipe.residency.model, graphs=graphs)
    monkeypatch.setattr("sdxl.pipeline.residency.available", lambda _: 0.0 if graphs else 1e12)
    pipe.residency.fit(pipe.plan(sdxl.Request("cat", steps=2)))
    assert not graphs


@pytest.mark.parametrize("way", ["forgotten", "arranged again"])
def test_a_compiled_part_is_let_go(way: str, tiny_folder: Path) -> None:
    pipe = load(tiny_folder, offload="auto")
    pipe.residency._replace("block")  # whose layers are not those for a CPU
    pipe.residency.model = pipe.residency.model.compiled()
    expert = pipe.experts[0]
    network = weakref.ref(expert.unet())
    gc.disable()
    try:
        if way == "forgotten":
            pipe.residency.model.free(expert.unet)
        else:
            pipe.residency._replace("block")
        assert network() is None
    finally:
        gc.enable()


def test_a_step_keeps_the_model_and_its_copy_and_results_do_not(tiny_folder: Path) -> None:
    pipe = load(tiny_folder)
    network = weakref.ref(pipe.unet)
    *_, step = pipe.steps("cat", steps=1, seed=1)
    kept = step.result(), copy.copy(step)
    del pipe
    assert network() is not None and len(step.result()) == 1
    del step
    assert network() is None and len(kept) == 2


@pytest.mark.parametrize("fault", ["memory", "callback"])
def test_a_model_is_let_go_after_an_error(fault: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: the collector may not look for a cycle for minutes."""
    pipe = load(tiny_folder)
    network = weakref.ref(pipe.unet)

    def fails(*_: object) -> None:
        raise MemoryError if fault == "memory" else KeyError

    if fault == "memory":
        monkeypatch.setattr(UNet, "predict", fails)
    gc.collect()
    gc.disable()
    try:
        with suppress(MemoryError, KeyError):
            pipe("cat", callback=fails, **QUICK)
        del pipe
        assert network() is None
    finally:
        gc.enable()


def test_a_part_is_loaded_once() -> None:
    loads: list[object] = []

    def load() -> object:
        time.sleep(0.05)
        loads.append(object())
        return loads[-1]

    part = Lazy(load)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: part(), range(8))) == set(loads)
    assert len(loads) == 1
    part.release()
    part.apply(lambda _: 1 / 0)
    for _ in range(2):  # and not given out half changed
        with pytest.raises(ZeroDivisionError):
            part()


def test_a_compiled_model_stays_so_where_it_can(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, changed = load(tiny_folder, offload="auto"), list[object]()
    monkeypatch.setattr("sdxl.pipeline.model.compile_blocks", changed.append)
    pipe.residency.model = pipe.residency.model.compiled()
    monkeypatch.setattr(
        "sdxl.pipeline.residency.Residency.compile", lambda self: setattr(self, "model", self.model.compiled())
    )
    pipe.residency._replace("none")
    assert pipe.is_compiled and changed == [pipe.unet]
    pipe.residency._replace("block")
    assert not pipe.is_compiled and len(changed) == 1


def test_the_work_of_a_vae_is_not_taken_for_smaller_than_it_is() -> None:
    """As measured on an H200, in bfloat16 at 1024 x 1024, and in float32 on a CPU."""
    size, cuda = (1024, 1024), torch.device("cuda")
    half, brain = (Placement(cuda, dtype, dtype) for dtype in (torch.float16, torch.bfloat16))
    exact = Placement(CPU, torch.float32, torch.float32)
    for measured, side in ((15.03e9, 2048), (0.488e9, 320)):
        assert measured < memory.vae_bytes(BASE.vae, (side, side), exact) < 1.5 * measured
    assert 5.76e9 < memory.vae_bytes(BASE.vae, (2048, 2048), exact, in_strips=True) < 1.4 * 5.76e9
    streamed = replace(brain, streamed=True)  # whose maps have the pixels of a channel side by side
    for measured, at, in_strips in (
        (1.36e9, brain, False),
        (0.89e9, brain, True),
        (2.55e9, streamed, False),
        (0.76e9, streamed, True),
    ):
        assert measured < memory.vae_bytes(BASE.vae, size, at, in_strips) < 1.1 * measured
    assert memory.vae_bytes(BASE.vae, size, half) == 2 * memory.vae_bytes(BASE.vae, size, streamed)


def test_least_of_all_is_an_error(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load(tiny_folder, offload="auto")
    monkeypatch.setattr(VAE, "decode", fail_first(VAE.decode, 1, WORDS[0]))
    monkeypatch.setattr("sdxl.pipeline.latents.decode_strips", fail_first(VAE.decode, 2, WORDS[0]))
    with (
        pytest.warns(SDXLWarning, match="going on with block"),
        pytest.raises(OutOfMemoryError, match=r"with offload block .*can't allocate.* try a smaller size"),
    ):
        pipe("cat", **QUICK)
    assert len(pipe("cat", **QUICK).images) == 1, "and the pipeline can be used again"


def test_what_was_asked_for_is_kept(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load(tiny_folder, offload="none")
    monkeypatch.setattr(UNet, "predict", fail_first(UNet.predict, 1, WORDS[1]))
    with pytest.raises(OutOfMemoryError, match=r"with offload none \(CUDA out of memory.* try offload stage"):
        pipe("cat", **QUICK)
    assert pipe.offload == "none"
    monkeypatch.setattr(UNet, "predict", fail_first(UNet.predict, 1, WORDS[1]))
    with pytest.raises(OutOfMemoryError, match="with offload none"):
        list(pipe.steps("cat", steps=1))


def test_less_may_be_too_much_too(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that runs out while the model is arranged again."""
    pipe = load(tiny_folder, offload="auto")
    pipe.residency._replace("none")
    monkeypatch.setattr(UNet, "predict", fail_first(UNet.predict, 1, WORDS[0]))
    monkeypatch.setattr(Model, "load", fail_first(Model.load, 1, WORDS[1]))
    with pytest.warns(SDXLWarning) as warned:
        pipe("cat", **QUICK)
    assert [str(each.message).split(";")[1][:20] for each in warned] == [" going on with stage", " going on with block"]


def test_other_errors_are_not_taken_for_it(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load(tiny_folder, offload="auto")
    monkeypatch.setattr(UNet, "predict", fail_first(UNet.predict, 1, RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        pipe("cat", **QUICK)


@pytest.mark.slow
def test_a_real_limit(tmp_path: Path) -> None:
    """A process that gets no more memory from the system says so in one sentence."""
    code = (
        "import resource, sys; from sdxl.cli.main import main; import sdxl.pipeline.pipeline, torch\n"
        "taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 350_000_000,) * 2)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    flags = ["--model", "miniature", "--prompt", "a", "--width", "2048", "--height", "2048", "--steps", "1", "--quiet"]
    command = [sys.executable, "-c", code, "generate", *flags, "--device", "cpu", "--output", str(tmp_path / "p.png")]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # whose size the limit fits
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=one_thread)
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr
    warning, error = done.stderr.splitlines()
    assert warning.startswith("warning: memory ran out with offload stage; going on with block")
    assert error.startswith("error: memory ran out with offload block")
    assert not (tmp_path / "p.png").exists()


# ---- NaN is named where it arises ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "who"),
    [
        (lambda pipe: pipe.text[0].encoder.layers[0].norm1.weight, "a text encoder of the base model"),
        (lambda pipe: pipe.text[1].encoder.projection.weight, "a text encoder of the base model"),
        (lambda pipe: pipe.unet.norm_out.weight, "the UNet of the base model"),
        (lambda pipe: pipe.vae.encoder.norm_out.weight, "the VAE's encoder"),
        (lambda pipe: pipe.vae.decoder.norm_out.weight, "the VAE's decoder"),
    ],
    ids=["text", "text 2", "unet", "encoder", "decoder"],
)
@pytest.mark.parametrize("value", [float("nan"), pytest.param(float("inf"), marks=pytest.mark.slow)])
def test_non_finite(weight: Callable[[Any], torch.Tensor], who: str, value: float, tiny_folder: Path) -> None:
    pipe = load(tiny_folder)
    weight(pipe).data.fill_(value)
    with pytest.raises(NonFiniteError, match=f"^{who} gave NaN or infinity .*; its weights are damaged"):
        pipe("cat", image=torch.rand(1, 3, 64, 64), strength=1, **QUICK)


# ---- a long life -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_images_leave_nothing_behind(tiny_folder: Path) -> None:
    """`make proof-life` generates a thousand."""
    pipe = load(tiny_folder, offload="auto")
    pipe.prepare_for_many()
    for n in range(90):
        pipe(f"cat {n}", steps=1, progress=False, seed=n)
        if n == 30:
            gc.collect()
            before = memory.used(CPU)
    gc.collect()
    assert memory.used(CPU) < 1.03 * before


def test_a_dropped_pipeline_is_gone(tiny_folder: Path) -> None:
    def count() -> int:
        gc.collect()
        return sum(type(each) is UNet for each in gc.get_objects())

    before = count()
    for offload in ("none", "stage", "block", "auto"):
        load(tiny_folder, offload=offload)("cat", **QUICK)
    assert count() == before


def test_texts_are_encoded_once_and_forgotten() -> None:
    class Stage:
        def __init__(self) -> None:
            self.asked: list[str] = []

        def chunks(self, text: str, _: Reading) -> list[str]:
            self.asked.append(text)
            return [text]

        def encode_chunks(self, prompts: list[list[str]], *_: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
            value = torch.tensor([[float(len(text))] for (text,) in prompts])
            return list(value[:, None]), value

    stage, memo = Stage(), TextCache(most=2)
    stage.tokenizer = None  # type: ignore[attr-defined]

    def encode(*texts: str) -> list[float]:
        return memo.encode(lambda: [stage], texts, texts, 0, Reading())[1][:, 0].tolist()  # type: ignore[list-item]

    assert encode("a", "bb", "a") == [1, 2, 1]
    assert encode("bb") == [2]
    assert stage.asked == ["a", "bb"]
    assert encode("a", "ccc", "a") == [1, 3, 1]
    assert stage.asked == ["a", "bb", "ccc"], "the last used one is kept"
    assert encode("bb", "a", "dddd", "a") == [2, 1, 4, 1]
    assert stage.asked == ["a", "bb", "ccc", "bb", "dddd"]


# ---- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offload", [pytest.param("none", marks=pytest.mark.slow), "stage"])
def test_two_threads_draw_what_one_does(offload: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load(tiny_folder, offload=offload)
    expected = [pipe("cat", **(QUICK | {"seed": n, "output": "latent"})).images for n in range(4)]
    inside, most, denoise = [0], [0], UNet.predict

    def counting(*given: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        try:
            return denoise(*given)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(UNet, "predict", counting)
    drawn: dict[int, Any] = {}

    def call(n: int) -> None:
        if n % 2:
            drawn[n] = pipe("cat", **(QUICK | {"seed": n, "output": "latent"})).images
        else:
            drawn[n] = [step.latents for step in pipe.steps("cat", steps=2, seed=n)][-1]

    threads = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(drawn[n], expected[n]) for n in range(4))
    assert most == [1], "one at a time"
