"""Measure this package against diffusers on the same weights: `scripts/benchmark.py`.

Each measurement is a process of its own that imports, loads, and times the stages; the processes take turns, `--rounds`
times, and the table gives medians. With --out every measurement is kept as a line of JSON.

    python scripts/make_checkpoint.py base weights/random_base.safetensors
    python -m sdxl convert weights/random_base.safetensors weights/random_base
    python scripts/benchmark.py --ours weights/random_base.safetensors --theirs weights/random_base --sizes 512 1024
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

Line = dict[str, Any]
Runs = dict[str, Callable[[], Any]]


# ---- what is measured ------------------------------------------------------------------------------------------------


def load_ours(options: argparse.Namespace) -> tuple[Any, Callable[[int], Runs]]:
    """Our pipeline, and its stages at a size."""
    import torch

    from sdxl import Pipeline
    from sdxl.cli.measure import PROMPT, stages

    most = None if options.max_memory is None else int(1e9 * options.max_memory)
    if most is not None and options.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(0).total_memory)
    pipe = Pipeline.from_pretrained(
        options.ours,
        dtype=options.dtype,
        device=options.device,
        offload=options.offload,
        max_memory=most,
        int8=options.int8,
    )
    if options.compile:
        pipe.compile()

    def runs(size: int) -> Runs:
        def picture() -> Any:
            return pipe(PROMPT, width=size, height=size, steps=options.steps, seed=0, output="tensor", progress=False)

        parts: Runs = {"picture": picture}
        if options.offload == "none":
            parts |= {name: stage.run for name, stage in stages(pipe, size, size).items()}
        return parts

    return pipe, runs


def load_theirs(options: argparse.Namespace) -> tuple[Any, Callable[[int], Runs]]:
    """diffusers' pipeline, and the same stages."""
    import torch
    from diffusers import StableDiffusionXLPipeline

    from sdxl.cli.measure import PROMPT

    dtype = getattr(torch, options.dtype or "float32")  # its default
    pipe = StableDiffusionXLPipeline.from_pretrained(options.theirs, torch_dtype=dtype).to(options.device)
    pipe.set_progress_bar_config(disable=True)
    if options.compile:  # as its documentation says
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
        if options.whole:
            pipe.unet = torch.compile(pipe.unet, mode="max-autotune" if options.whole == "max" else None)
        else:
            pipe.unet.compile_repeated_blocks(fullgraph=True)
        pipe.vae.decode = torch.compile(pipe.vae.decode, fullgraph=True)

    def runs(size: int) -> Runs:
        unet, vae, side = pipe.unet, pipe.vae, size // 8
        with torch.no_grad():
            texts = pipe.encode_prompt(PROMPT, device=options.device, do_classifier_free_guidance=True)
        context, pooled = torch.cat([texts[1], texts[0]]), torch.cat([texts[3], texts[2]])
        ids = torch.tensor([[size, size, 0, 0, size, size]] * 2, device=options.device).to(dtype)
        x = torch.randn(2, 4, side, side, device=options.device).to(dtype)
        z, pixels = x[:1], torch.rand(1, 3, size, size, device=options.device).to(dtype)
        t = torch.tensor(500.0, device=options.device)

        @torch.no_grad()
        def step() -> Any:
            added = {"text_embeds": pooled, "time_ids": ids}
            return unet(x, t, encoder_hidden_states=context, added_cond_kwargs=added, return_dict=False)

        def picture() -> Any:
            return pipe(PROMPT, width=size, height=size, num_inference_steps=options.steps, output_type="pt")

        encode_text = torch.no_grad()(
            lambda: pipe.encode_prompt(PROMPT, device=options.device, do_classifier_free_guidance=True)
        )
        return {
            "picture": picture,
            "text": encode_text,
            "step": step,
            "decode": torch.no_grad()(lambda: vae.decode(z / vae.config.scaling_factor, return_dict=False)),
            "encode": torch.no_grad()(lambda: vae.encode(pixels)),
        }

    return pipe, runs


def measure(options: argparse.Namespace) -> Iterable[Line]:
    """One process's measurements: a line for each thing."""
    began = time.perf_counter()
    if options.child == "sdxl":
        import sdxl

        _ = sdxl.Pipeline  # imported when it is first named
    else:
        from diffusers import StableDiffusionXLPipeline

        _ = StableDiffusionXLPipeline
    yield {"stage": "import", "seconds": time.perf_counter() - began}
    import torch

    from sdxl.cli.measure import machine, matrix_rate, time_runs

    device = torch.device(options.device)
    yield {"stage": "machine", **machine(device)}
    began = time.perf_counter()
    _, runs = (load_ours if options.child == "sdxl" else load_theirs)(options)
    yield {"stage": "load", "seconds": time.perf_counter() - began, "gb": peak(device)}
    for size in options.sizes:
        chosen = {name: run for name, run in runs(size).items() if name in options.stages}
        for name, run in chosen.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            first, seconds = time_runs(run, options.repeats, device)
            yield {"stage": name, "size": size, "seconds": seconds, "first": first, "gb": peak(device)}
    dtype = getattr(torch, options.dtype or "float32")
    yield {"stage": "matrix product", "tflops": matrix_rate(device, dtype) / 1e12}


def peak(device: Any) -> float:
    """The most memory so far, in GB: of the GPU, or of the process."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


# ---- taking turns ----------------------------------------------------------------------------------------------------


def run_child(name: str) -> list[Line]:
    """Measure in a new process, which prints its lines as JSON."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def table(lines: list[Line], names: list[str]) -> str:
    """Medians over the rounds, and how many times as long the second takes as the first."""
    rows = []
    for key in dict.fromkeys((line["stage"], line.get("size")) for line in lines if "seconds" in line):
        cells = [[line for line in lines if (line["stage"], line.get("size"), line["who"]) == (*key, n)] for n in names]
        seconds = [median(line["seconds"] for line in cell) if cell else float("nan") for cell in cells]
        memory = [max((line.get("gb", 0.0) for line in cell), default=0.0) for cell in cells]
        label = f"{key[0]} {key[1] or ''}"
        numbers = " | ".join(f"{s:9.3f} | {gb:6.2f}" for s, gb in zip(seconds, memory, strict=True))
        ratio = f"{seconds[1] / seconds[0]:5.2f}" if len(seconds) == 2 else ""
        rows.append(f"| {label:14} | {numbers} | {ratio} |")
    heads = " | ".join(f"{name} s | peak GB" for name in names)
    return "\n".join([f"| stage | {heads} | ratio |", "|---" * (2 + 2 * len(names)) + "|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=Path, help="the model for this package")
    parser.add_argument("--theirs", type=Path, help="the same model as a folder, for diffusers")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: each one's own default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512])
    parser.add_argument("--stages", nargs="*", default=["step"], help="text, step, decode, encode, picture")
    parser.add_argument("--steps", type=int, default=30, help="of a picture")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="of every stage in each round")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--whole", choices=["default", "max"], help="compile diffusers' UNet as one graph")
    parser.add_argument("--offload", default="none", help="ours")
    parser.add_argument("--int8", action="store_true", help="ours")
    parser.add_argument("--max-memory", type=float, metavar="GB", help="ours")
    parser.add_argument("--out", type=Path, help="append every measurement to this file")
    parser.add_argument("--child", choices=["sdxl", "diffusers"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        for line in measure(options):
            print(json.dumps(line), flush=True)
        return
    names = [name for name, path in (("sdxl", options.ours), ("diffusers", options.theirs)) if path]
    shown = ("dtype", "compile", "whole", "offload", "int8", "max_memory", "steps", "repeats")
    settings = {k: v for k, v in vars(options).items() if v is not None and k in shown}
    lines = []
    for _ in range(options.rounds):
        for name in names:
            lines += [{"who": name, **settings, **line} for line in run_child(name)]
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    machine = next(line for line in lines if line["stage"] == "machine")
    rates = [line["tflops"] for line in lines if line["stage"] == "matrix product"]
    print(", ".join(f"{k} {v}" for k, v in machine.items() if k not in ("who", "stage")), flush=True)
    print(f"matrix product: {median(rates):.3f} TFLOP/s\n")
    print(table(lines, names))


if __name__ == "__main__":
    main()
