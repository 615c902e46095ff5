"""What `benchmark_cuda.py` measures of a pipeline on CUDA, each step in a process of its own."""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from make_checkpoint import random_weight
from PIL import Image
from torch.profiler import ProfilerActivity, profile

import sdxl
from sdxl.cli.measure import PROMPT, machine, stages
from sdxl.models import ControlNetConfig
from sdxl.weights.component import Component
from sdxl.weights.container import Weights, save_tensors
from sdxl.weights.control_keys import controlnet_rows

HERE = Path(__file__).resolve().parent


def write(out: Path, line: dict[str, Any]) -> None:
    """Append a line, and print it."""
    text = json.dumps(line)
    with (out / "lines.jsonl").open("a", encoding="utf-8") as file:
        file.write(text + "\n")
    print(text, flush=True)


class Bench:
    """A pipeline, and its measurements as lines."""

    def __init__(self, options: argparse.Namespace, name: str, **load: Any) -> None:
        self.options, self.name = options, name
        self.is_cuda = options.device.startswith("cuda")
        self.size, self.steps = (64, 2) if options.tiny else (1024, 30)
        self.settings = {"prompt": PROMPT, "width": self.size, "height": self.size, "seed": 0}
        began = time.perf_counter()
        dtype = "float32" if options.tiny else "bfloat16"
        self.pipe = sdxl.Pipeline.from_pretrained(options.model, device=options.device, dtype=dtype, **load)
        self.wait()
        self.write("load", seconds=time.perf_counter() - began, **machine(self.pipe.device))

    def write(self, what: str, **values: Any) -> None:
        """A line of this step; seconds and GB are rounded."""
        rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}
        write(self.options.out, {"step": self.name, "what": what, **rounded})

    def wait(self) -> None:
        """Until the GPU has done what it was asked for."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def time(self, what: str, run: Callable[[], Any], repeats: int = 3, **values: Any) -> None:
        """The seconds of each run, and the peak of memory."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(repeats):
            self.wait()
            began = time.perf_counter()
            run()
            self.wait()
            seconds.append(round(time.perf_counter() - began, 4))
        if self.is_cuda:
            values["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
            values["peak_reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
        self.write(what, seconds=seconds, **values)

    def image(self, **more: Any) -> Callable[[], Any]:
        """A whole image, from text to pixels."""
        arguments = {"steps": self.steps, **self.settings, **more}
        return lambda: self.pipe(**arguments, output="tensor", progress=False)

    def images(self) -> None:
        """Whole images after the first, guided and of four steps without guidance, and their stages."""
        self.time("image", self.image())
        for _ in range(2):
            self.image(steps=4, guidance_scale=1.0)()  # until its step is recorded
        self.time("image of 4 steps without guidance", self.image(steps=4, guidance_scale=1.0))
        for name, stage in stages(self.pipe, self.size, self.size).items():
            stage.run()
            self.time(name, stage.run, 5)

    def graphs(self) -> Any:
        """Those of the pipeline, if its steps are recorded."""
        return self.pipe.residency.model.graphs

    def profile(self, what: str, run: Callable[[], Any]) -> None:
        """The kernels of a run by kind: how many, and the milliseconds of each kind."""
        run()
        self.wait()
        with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * self.is_cuda]) as profiled:
            began = time.perf_counter()
            run()
            self.wait()
            seconds = time.perf_counter() - began
        kinds, counts, names = Counter[str](), Counter[str](), Counter[str]()
        for event in profiled.events():
            on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
            if on_gpu == self.is_cuda and not event.cpu_children:
                spent = (event.time_range.end - event.time_range.start) / 1000
                kinds[kind_of(event.name)] += spent
                counts[kind_of(event.name)] += 1
                names[event.name[:90]] += spent
        busy = {name: round(spent, 3) for name, spent in kinds.most_common()}
        longest = {name: round(spent, 3) for name, spent in names.most_common(25)}
        self.write(f"profile of {what}", seconds=seconds, ms=busy, kernels=dict(counts), longest=longest)


KINDS = {
    "attention": ("fmha", "flash", "sdpa", "attention"),
    "convolution": ("conv", "implicit", "xmma_fprop", "cudnn", "nchw", "nhwc"),
    "product": ("gemm", "cublas", "cutlass", "xmma", "linear", "addmm", "aten::mm", "nvjet", "splitk"),
    "norm": ("norm", "rowwisemoments", "welford"),
    "copy": ("memcpy", "memset", "copy", "cat"),
    "compiled": ("triton",),
}


def kind_of(name: str) -> str:
    """The kind of a kernel, by its name."""
    low = name.lower()
    if low.startswith("triton"):
        return "compiled"
    return next((kind for kind, words in KINDS.items() if any(word in low for word in words)), "other")


def measure_checkpoint(options: argparse.Namespace) -> None:
    """Make the checkpoint, its weights on the GPU."""
    command = [sys.executable, str(HERE / "make_checkpoint.py"), "base", options.model, "--device", options.device]
    subprocess.run(command, check=True)


def measure_recorded(options: argparse.Namespace) -> None:
    """Without the compiler: recorded steps, and the same layer by layer. The images are to be bitwise the same."""
    bench = Bench(options, "recorded")
    pipe = bench.pipe
    bench.time("first image", bench.image(), 1)
    recorded = bench.image()().images
    bench.images()
    if (graphs := bench.graphs()) is not None:
        bench.write("graphs", count=len(graphs.recordings()), gb=graphs.bytes / 1e9, stopped=graphs.stopped)
        graphs.clear()
    milliseconds = []
    began = time.perf_counter()
    for _ in pipe.steps(**bench.settings, steps=bench.steps):
        bench.wait()
        milliseconds.append(round(1000 * (time.perf_counter() - began), 2))
        began = time.perf_counter()
    bench.write("milliseconds of each step, with text in the first and a recording in the fifth", ms=milliseconds)
    bench.profile("a recorded image of 2 steps", bench.image(steps=2))
    pipe.residency.model = replace(pipe.residency.model, graphs=None)
    plain = bench.image()().images
    error = float((plain - recorded).abs().max())
    bench.write("bitwise the same as layer by layer", same=torch.equal(plain, recorded), error=error)
    bench.time("image, layer by layer", bench.image())
    bench.time("image of 4 steps without guidance, layer by layer", bench.image(steps=4, guidance_scale=1.0))
    bench.profile("an image of 2 steps, layer by layer", bench.image(steps=2))


def measure_compiled(options: argparse.Namespace) -> None:
    """Compiled, with an empty cache."""
    bench = Bench(options, "compiled")
    first_compiled(bench)
    bench.images()
    bench.profile("a compiled image of 2 steps", bench.image(steps=2))


def measure_warm(options: argparse.Namespace) -> None:
    """Compiled, where the cache knows the blocks: the first image alone."""
    first_compiled(Bench(options, f"warm, precompiled {os.environ.get('TORCH_CACHING_PRECOMPILE', '0')}"))


def first_compiled(bench: Bench) -> None:
    """The first image of compiled blocks, by part, and what the compiler says about its time."""
    bench.pipe.compile()
    parts = bench.pipe.steps(**bench.settings, steps=bench.steps)
    bench.time("first step", lambda: next(parts), 1)
    last: list[Any] = []
    bench.time("the other steps", lambda: last.extend(parts), 1)
    bench.time("first decode", lambda: last[-1].result("tensor"), 1)
    from torch._dynamo.utils import compile_times, counters  # it takes a second

    print(compile_times())
    found = {name: {str(key)[:60]: value for key, value in counters[name].items()} for name in ("stats", "inductor")}
    bench.write("counters of the compiler", **found)


def measure_text(options: argparse.Namespace) -> None:
    """Text encoders outside of the GPU, within 8 GB: recorded steps, then compiled."""
    limits = {} if options.tiny else {"max_memory": 8e9}
    bench = Bench(options, "text", offload="text" if str(options.device).startswith("cuda") else "none", **limits)
    bench.time("first image", bench.image(), 1)
    bench.time("image", bench.image())
    if (graphs := bench.graphs()) is not None:
        bench.write("graphs", count=len(graphs.recordings()), gb=graphs.bytes / 1e9, stopped=graphs.stopped)
    bench.pipe.compile()
    bench.image()()
    bench.time("image, compiled", bench.image())


def measure_control(options: argparse.Namespace) -> None:
    """Steps with a ControlNet against steps without, then the peaks of memory with every way of keeping a model."""
    bench = Bench(options, "control")
    config = ControlNetConfig(bench.pipe.info.config.unet)
    rows, generator = list(controlnet_rows(config)), torch.Generator(options.device).manual_seed(0)
    empty = Component("", config, rows, "", Weights([])).build().state_dict()
    state = {row.folder: random_weight(row.ours, empty[row.ours].shape, torch.float16, generator).cpu() for row in rows}
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        path = Path(folder) / "net.safetensors"
        save_tensors(state, path, {})
        image = Image.effect_noise((bench.size, bench.size), 60).convert("RGB")
        ways = {"without": None, "with": sdxl.Control(path, image, 0.5)}
        for count in (2, bench.steps):
            for name, control in ways.items():
                run = bench.image(steps=count, control=control)
                for _ in range(3):
                    run()  # until its step is recorded
                bench.time(f"{name} a ControlNet, {count} steps", run)
        for offload in ("text", "stage", "block"):
            del bench, run
            empty_cache(options.device)
            bench = Bench(options, f"control, offload {offload}", offload=offload)
            for name, control in ways.items():
                run = bench.image(steps=2, control=control)
                bench.time(f"{name} a ControlNet, 2 steps", run, 2)


def empty_cache(device: str) -> None:
    """Give the memory of what has been let go back to the system."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


MEASURES = {
    "checkpoint": measure_checkpoint,
    "recorded": measure_recorded,
    "compiled": measure_compiled,
    "warm": measure_warm,
    "text": measure_text,
    "control": measure_control,
}
