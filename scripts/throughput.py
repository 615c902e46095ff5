"""Images a second by the rules of MLPerf Inference for SDXL, offline: `scripts/throughput.py`.

Every image is 1024x1024, by 20 steps of Euler with guidance 8 and the negative prompt of the rules
(github.com/mlcommons/inference, text_to_image/backend_pytorch.py). Batches of each size run one after the other. The
clock runs from the tokens to 8-bit pixels in the host's memory: the time in which the same texts are split into tokens
is measured before each batch and taken off.
What differs from a submission: the prompts are ours, one for each image, each image starts from noise of its own seed,
and the negative prompt, which is always the same, is encoded once. The scale of a run is minutes, not a submission's.

A line of JSON for each size is written as soon as it is known, and no size is begun that would not end within --limit
seconds of the start. `bound` is what the matrix product of the same run would allow: its operations a second over those
of an image, which are counted for the plain networks.

    python scripts/make_checkpoint.py base weights/random_base.safetensors
    python scripts/throughput.py --model weights/random_base.safetensors --device cuda --dtype bfloat16 \\
        --batches 1 2 4 8 16 --out throughput.jsonl
    python scripts/throughput.py --model miniature --size 128 --steps 4 --batches 1 2
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from itertools import count, islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from sdxl import Pipeline
from sdxl.cli.measure import count_flop, machine, matrix_rate
from sdxl.errors import OutOfMemoryError
from sdxl.text.chunks import Reading

SIZE, STEPS, GUIDANCE, SAMPLER = 1024, 20, 8.0, "euler"
NEGATIVE = "normal quality, low quality, worst quality, low res, blurry, nsfw, nude"
PLACES = ("kitchen", "harbour", "street", "forest", "station", "beach", "library", "market")
THINGS = ("a man with an umbrella", "two dogs", "a red bus", "a bowl of fruit", "a woman on a bicycle", "a small boat")

Line = dict[str, Any]


def prompts() -> Iterator[str]:
    """Captions without end, of which no two are equal."""
    for number in count():
        thing, place = THINGS[number % len(THINGS)], PLACES[number // len(THINGS) % len(PLACES)]
        yield f"a photo of {thing} in a {place}, number {number}"


def arguments(options: argparse.Namespace, texts: list[str], steps: int) -> dict[str, Any]:
    """The rules as arguments of a call."""
    return {
        "prompt": texts,
        "negative_prompt": NEGATIVE,
        "width": options.size,
        "height": options.size,
        "steps": steps,
        "guidance_scale": GUIDANCE,
        "sampler": SAMPLER,
        "seed": 0,
        "preset": "none",
    }


def generate(pipe: Pipeline, given: dict[str, Any]) -> Tensor:
    """One call: pixels (B, 3, H, W) in 8 bits, in the host's memory."""
    pixels = pipe(**given, output="tensor", progress=False).images
    assert isinstance(pixels, Tensor)
    return (pixels * 255).round().to(torch.uint8).cpu()


def stages(pipe: Pipeline, given: dict[str, Any]) -> Line:
    """Seconds of the text, of a step and of decoding, of one batch, each waited for."""
    began, steps = now(pipe), [(step, now(pipe)) for step in pipe.steps(**given)]
    times = [began, *(time for _, time in steps)]
    steps[-1][0].result("tensor")
    decoded = now(pipe) - times[-1]
    seconds = median(later - one for one, later in pairwise(times[1:]))
    return {"text_s": max(times[1] - times[0] - seconds, 0.0), "step_s": seconds, "decode_s": decoded}


def now(pipe: Pipeline) -> float:
    """The time when the device has done what it was asked for."""
    if pipe.device.type == "cuda":
        torch.cuda.synchronize(pipe.device)
    return time.perf_counter()


def peak(pipe: Pipeline) -> float:
    """The most memory so far, in GB: of the GPU since the last size, or of the process."""
    if pipe.device.type == "cuda":
        most = torch.cuda.max_memory_allocated(pipe.device) / 1e9
        torch.cuda.reset_peak_memory_stats(pipe.device)
        return most
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(options: argparse.Namespace, began: float) -> Iterator[Line]:
    """A line for the machine, and one for each size of batches."""
    pipe = Pipeline.from_pretrained(options.model, dtype=options.dtype, device=options.device, offload=options.offload)
    pipe.prepare_for_many()
    if options.compile:
        pipe.compile()
    arithmetic = pipe.experts[0].placement.arithmetic
    rate = matrix_rate(pipe.device, arithmetic)
    flop = count_flop(pipe.info.config, options.size, options.size)
    operations = flop["text"] + options.steps * flop["step"] + flop["decode"]
    yield {
        **machine(pipe.device),
        "dtype": str(arithmetic).removeprefix("torch."),
        "compiled": pipe.is_compiled,
        "size": options.size,
        "steps": options.steps,
        "matrix_tflops": rate / 1e12,
        "image_tflop": operations / 1e12,
        "bound_images_per_s": rate / operations,
        "load_s": time.perf_counter() - began,
    }
    texts, needed = prompts(), 0.0  # seconds of the least work for one image of a batch
    for batch in options.batches:
        if time.perf_counter() - began + needed * batch > options.limit:
            yield {"batch": batch, "skipped": f"it would not end within {options.limit:g} s"}
            continue
        start = time.perf_counter()
        try:
            line, least = of_size(pipe, batch, options, texts, began)
        except OutOfMemoryError as error:
            yield {"batch": batch, "skipped": str(error)}
            continue
        needed = least / batch
        bound = rate / operations
        yield {**line, "share_of_bound": line["images_per_s"] / bound, "all_s": time.perf_counter() - start}


def of_size(
    pipe: Pipeline, batch: int, options: argparse.Namespace, texts: Iterator[str], began: float
) -> tuple[Line, float]:
    """What is measured of one size, and the seconds of the least work that this takes."""
    start, _ = now(pipe), peak(pipe)
    generate(pipe, arguments(options, list(islice(texts, batch)), 2))  # warms up, and compiles
    parts = stages(pipe, arguments(options, list(islice(texts, batch)), 4))
    warm, images, seconds, busy = now(pipe) - start, 0, 0.0, 0.0
    reading = Reading(truncates=False)
    while True:
        own = list(islice(texts, batch))
        first = time.perf_counter()
        for stage in pipe.text:
            for text in own:
                stage.chunks(text, reading)
        begun, processor = now(pipe), time.process_time()
        pixels = generate(pipe, arguments(options, own, options.steps))
        call = now(pipe) - begun - (begun - first)
        busy += time.process_time() - processor
        assert pixels.shape == (batch, 3, options.size, options.size) and pixels.dtype == torch.uint8
        images, seconds = images + batch, seconds + call
        if seconds >= options.seconds or time.perf_counter() - began + call > options.limit:
            break
    line = {
        "batch": batch,
        "images": images,
        "seconds": seconds,
        "images_per_s": images / seconds,
        "processor_s_per_image": busy / images,
        "peak_gb": peak(pipe),
        "warm_s": warm,
        **parts,
    }
    return line, warm + call


def main(given: list[str] | None = None) -> int:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--offload", default="none")
    parser.add_argument("--compile", action="store_true", help="blocks are compiled for each size of batches")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--size", type=int, default=SIZE, help="of another run than the rules'")
    parser.add_argument("--steps", type=int, default=STEPS, help="of another run than the rules'")
    parser.add_argument("--seconds", type=float, default=20.0, help="of images for each size, at least one batch")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds of the whole run")
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    options = parser.parse_args(given)
    for line in measure(options, began):
        text = json.dumps(line)
        print(text, flush=True)
        if options.out is not None:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
