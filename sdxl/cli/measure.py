"""Times the stages of an image and the machine's matrix product, for `python -m sdxl bench`."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..models.clip import TextEncoder
from ..models.conditioned import precompute
from ..models.config import ModelConfig
from ..models.tiny_vae import make_vae
from ..models.unet import UNet
from ..pipeline.pipeline import Pipeline
from ..pipeline.request import Request
from ..runtime.cuda_graph import Graphs
from ..runtime.device import FAST, cpu_seconds
from ..runtime.placement import Placement
from ..sampling.denoiser import Network
from ..version import __version__
from . import allocator

PROMPT = "an astronaut in a jungle, cold colours, muted, detailed"


@dataclass(frozen=True)
class Stage:
    """One stage of generating an image, ready to run, and its number of floating-point operations."""

    run: Callable[[], Any]
    flop: float


def machine(device: torch.device) -> dict[str, Any]:
    """The machine and the versions that belong to a measurement."""
    cuda = device.type == "cuda"
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    processor = (names or [platform.processor() or platform.machine()])[0]
    name = torch.cuda.get_device_name(device) if cuda else processor
    return {
        "device": f"GPU of {name}" if device.type == "mps" else name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sdxl": __version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def path(at: Placement) -> str:
    """The kind of layers that a CPU computes with, the trial that chose it with its rule, and the allocator."""
    seconds = cpu_seconds()
    trial = ", ".join(f"{1000 * each:.1f} ms in {dtype}" for dtype, each in seconds.items())
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    rule = f"float32 takes {ratio:.2f} times as long as bfloat16, which is the default from {FAST} on"
    layers = "prepacked" if at.packed else "plain" if at.dtype == at.arithmetic else f"cast to {at.arithmetic}"
    in_8_bits = ", the UNet's blocks in 8 bits" if at.int8 else ", those of the blocks kept in float8" if at.fp8 else ""
    trial = f"the trial of a matrix product took {trial}: {rule}"
    return f"layers {layers}{in_8_bits}; {trial}; allocator {allocator.in_use()}".replace("torch.", "")


def _lines(path: str) -> list[str]:
    """The lines of a file of Linux; none elsewhere."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:
        return []


def count_flop(config: ModelConfig, height: int, width: int) -> dict[str, float]:
    """Operations (two per multiply-add) of the text encoders, of a UNet step with guidance, and of decoding and
    encoding, for one image. They are counted on the meta device, for the plain networks without optimizations.
    """
    h, w = height // config.vae.factor, width // config.vae.factor
    unet = config.unet
    with torch.device("meta"), torch.no_grad():
        x, context = torch.empty(2, unet.in_channels, h, w), torch.empty(2, 77, unet.context_dim)
        given = x, torch.empty(2), context, torch.empty(2, unet.vector_dim)
        vae, ids = make_vae(config.vae), torch.zeros(1, 77, dtype=torch.long)
        encoders = [TextEncoder(each) for each in (config.text_encoder, config.text_encoder_2) if each]
        runs: dict[str, Callable[[], Any]] = {
            "text": lambda: [encoder(ids) for encoder in encoders],
            "step": lambda: UNet(unet)(*given),
            "decode": lambda: vae.decode(torch.empty(1, config.vae.latent_channels, h, w)),
            "encode": lambda: vae.encode(torch.empty(1, config.vae.image_channels, height, width)),
        }
        return {name: _flop(run) for name, run in runs.items() if name != "encode" or config.vae.has_encoder}


def _flop(run: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def stages(pipe: Pipeline, height: int, width: int) -> dict[str, Stage]:
    """The stages of one image with guidance and no negative prompt."""
    expert, flop = pipe.experts[0], count_flop(pipe.info.config, height, width)
    plan = pipe.plan(Request(PROMPT, height=height, width=width, steps=2, seed=0))
    placement = expert.placement
    x = torch.randn(2, pipe.unet.config.in_channels, *plan.latent_size).to(placement.device, placement.arithmetic)
    z = torch.randn(1, pipe.info.config.vae.latent_channels, *plan.latent_size)
    pixels = torch.rand(1, 3, height, width)
    with torch.no_grad():
        conditioned = precompute(pipe.unet, expert.condition(plan), plan.schedule.timesteps)
    is_recorded = pipe.residency.model.graphs is not None
    network: Network = Graphs(eager_runs=0).network(conditioned, x.shape) if is_recorded else conditioned

    @torch.no_grad()
    def step() -> Tensor:
        return network(x, plan.schedule.timesteps[0])

    runs: dict[str, Callable[[], Any]] = {
        "text": lambda: expert.condition(plan),
        "step": step,
        "decode": lambda: pipe.decode(z),
        "encode": lambda: pipe.encode(pixels),
    }
    return {name: Stage(run, flop[name]) for name, run in runs.items() if name in flop}


def time_runs(run: Callable[[], Any], repeats: int, device: torch.device) -> tuple[float, float]:
    """Seconds of a first run, which may compile or plan, and the median of `repeats` more runs."""
    seconds = []
    for _ in range(repeats + 1):
        _wait(device)
        began = time.perf_counter()
        run()
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return seconds[0], median(seconds[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a product of square matrices: the peak of the machine."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / time_runs(lambda: a @ b, 5, device)[1]


def report(pipe: Pipeline, height: int, width: int, repeats: int = 3) -> list[dict[str, Any]]:
    """A line for each stage: median seconds, operations, and the share of the machine's matrix rate."""
    placement = pipe.experts[0].placement
    rate = matrix_rate(placement.device, placement.arithmetic)
    lines = []
    for name, stage in stages(pipe, height, width).items():
        _, seconds = time_runs(stage.run, repeats, placement.device)
        reached = stage.flop / seconds
        lines.append({"stage": name, "seconds": seconds, "tflop": stage.flop / 1e12, "share": reached / rate})
    return lines
