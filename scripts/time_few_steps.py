"""Where the time of a 4-step image without guidance goes: `python scripts/time_few_steps.py MODEL`.

Seconds of the processor (user and system, all threads) and the peak of memory of each stage, from text to pixels, with
the model's own VAE and with a tiny one of TAESDXL's size, whose weights are random. MODEL may be of random weights too:
`python scripts/make_checkpoint.py base MODEL`.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import sdxl
from sdxl.cli.measure import PROMPT
from sdxl.models.conditioned import precompute
from sdxl.models.tiny_vae import TinyVAE
from sdxl.models.tiny_vae_config import TinyVAEConfig
from sdxl.pipeline.request import Request
from sdxl.runtime.memory import trim
from sdxl.training.tiny_vae import save_decoder

SETTINGS: dict[str, Any] = {"steps": 4, "guidance_scale": 1.0, "schedule": "trailing", "seed": 0}


def measured(name: str, run: Callable[[], Any], repeats: int) -> float:
    """The median of the processor's seconds of some runs, printed with the peak above the memory before."""
    seconds, peaks = [], []
    for _ in range(repeats):
        gc.collect()
        trim()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, began = status("VmRSS"), time.process_time()
        run()
        seconds.append(time.process_time() - began)
        peaks.append(status("VmHWM") - before)
    print(
        f"{name}: {statistics.median(seconds):.3f} s ({', '.join(f'{each:.3f}' for each in seconds)}), "
        f"peak + {max(peaks):.2f} GB, in all {status('VmHWM'):.2f} GB",
        flush=True,
    )
    return statistics.median(seconds)


def status(name: str) -> float:
    """A number of this process's status in Linux, in GB."""
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / 1e9


def measure(pipe: sdxl.Pipeline, drafts: sdxl.Pipeline, side: int, repeats: int, whole: bool) -> None:
    """All stages at a size; then whole images, if they are asked for."""
    print(f"-- {side} x {side}", flush=True)
    plan = pipe.plan(Request(PROMPT, width=side, height=side, **SETTINGS))
    x, z = (torch.randn(1, 4, side // 8, side // 8) for _ in range(2))
    conditioned, t = precompute(pipe.unet, pipe.experts[0].condition(plan), plan.schedule.timesteps), 999.0
    text = measured("text", lambda: pipe.experts[0].condition(plan), repeats)
    step = measured("a step", lambda: conditioned(x.bfloat16(), t), repeats)
    decode = measured("decode", lambda: pipe.decode(z), repeats)
    measured("tiny decode", lambda: drafts.decode(z), repeats)
    if whole:
        size: dict[str, Any] = {"width": side, "height": side, "progress": False}
        total = measured("an image", lambda: pipe(PROMPT, **size, **SETTINGS), repeats)
        print(f"an image without its stages: {total - text - 4 * step - decode:.3f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stages-only", action="store_true", help="no whole images")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = Path(folder) / "random.safetensors"
        save_decoder(file, TinyVAE(TinyVAEConfig()), {})
        pipe = sdxl.Pipeline.from_pretrained(arguments.model, preview_vae=file, device="cpu", dtype="bfloat16")
        tiny = pipe.residency.model.preview
        assert tiny is not None
        drafts = sdxl.Pipeline.from_networks(pipe.info, pipe.unet, tiny(), pipe.text)
        print(f"{torch.__version__}, {torch.get_num_threads()} threads, {pipe!r}", flush=True)
        for number, side in enumerate(arguments.sides):
            measure(pipe, drafts, side, arguments.repeats, whole=number == 0 and not arguments.stages_only)


if __name__ == "__main__":
    main()
