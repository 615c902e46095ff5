"""The denoising loop: every image passes through it, whatever the task."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Sequence
from functools import cache, reduce

import torch
from torch import Tensor

from ..models.conditioned import ConditionedUNet, perturb, precompute, with_sources
from ..sampling.denoiser import Network, make_denoiser
from ..sampling.guidance import is_perturbed
from ..sampling.inpaint import blend_known, with_channels
from ..sampling.sampler import Denoiser, Step
from ..sampling.sampler import Noise as StepNoise
from ..sampling.samplers import SAMPLERS
from .attending import attended
from .finite import check_finite
from .generators import seeded
from .latents import Latents
from .model import Model
from .noise import Noise
from .plan import Plan
from .result import PipelineStep
from .stages import report, report_end, stage
from .start import Start, make_start
from .window import step_at


@torch.no_grad()
def run(
    plan: Plan, model: Model, latents: Latents, generators: Sequence[torch.Generator] | None = None
) -> Generator[PipelineStep, None, None]:
    """The steps of a plan. One expert after the other takes x down its part of the sigmas. The noise comes from the
    plan's seeds, or from generators in place of them.
    """
    shape = model.info.config.vae.latent_channels, *plan.latent_size
    noise = Noise(generators or seeded(plan.seeds), len(plan.seeds), shape, model.placement.device)
    report("start", _summary(plan, model), total=plan.steps, level=logging.INFO)
    start = make_start(plan, latents, noise)
    of_steps = noise.paths(plan.seeds, plan.schedule.sigmas) if plan.settings.get("noise") == "tree" else noise
    x, index = start.x, 0
    if not plan.steps:  # strength 0: the image as it is
        yield PipelineStep(0, 0, plan.sigmas[0], x, x)
    began = time.perf_counter()
    for number, sigmas in plan.stages():
        for step in _stage(number, sigmas, x, plan, model, start, of_steps):
            x, index = step.x, index + 1
            report("steps", f"step {index} of {plan.steps}, sigma {step.sigma:.3g}", index, plan.steps)
            result = start.result(x, plan) if index == plan.steps else x
            yield PipelineStep(index - 1, plan.steps, step.sigma, result, step.denoised)
    report_end("sampling", time.perf_counter() - began, model.placement)


def _stage(
    number: int, sigmas: Sequence[float], x: Tensor, plan: Plan, model: Model, start: Start, noise: StepNoise
) -> Iterator[Step]:
    """The steps of one expert."""
    expert, sampler = model.experts[number], SAMPLERS[str(plan.request.sampler)]
    options = {name: value for name, value in plan.settings.items() if name != "noise"}
    with model.using(expert.unet, expert.text):
        denoise = _denoiser(number, plan, model, start)
        steps = sampler(denoise, x, sigmas, noise, levels=plan.schedule.table, **options)
        for left, step in zip(range(len(sigmas) - 2, -1, -1), steps, strict=True):
            if not left:  # looked at once, since it makes the host wait for the GPU
                check_finite(step.x, f"the UNet of the {expert.info.config.kind} model", expert.placement)
            yield step


def _denoiser(number: int, plan: Plan, model: Model, start: Start) -> Denoiser:
    """An expert's guess for x, with the known part of the image kept."""
    expert = model.experts[number]
    with stage("text", expert.placement):
        conditionings = expert.condition(plan)
    model.release(expert.text)
    for each in conditionings.values():
        for tensor in (*each.groups, each.vector):
            check_finite(tensor, f"a text encoder of the {expert.info.config.kind} model", expert.placement)
    references = attended(plan, model) if number == 0 else []
    unet = expert.unet()
    scales = plan.embedded_scales if unet.guidance_embed is not None else ()
    conditioned = precompute(unet, conditionings, plan.schedule.timesteps, scales)
    inpaints = start.channels is not None and unet.config.in_channels > start.x.shape[1]

    @cache
    def seeing(acting: tuple[bool, ...]) -> ConditionedUNet:
        shown = [each.sources for each, acts in zip(references, acting, strict=True) if acts]
        return reduce(with_sources, shown, conditioned)

    @cache
    def network(branches: tuple[str, ...], acting: tuple[bool, ...]) -> Network:
        selected = perturb(seeing(acting).select(branches), is_perturbed, plan.perturbs)
        each: Network = selected if model.graphs is None else model.graphs.network(selected, start.x.shape)
        return with_channels(each, start.channels) if inpaints and start.channels is not None else each

    def network_at(branches: tuple[str, ...], sigma: float) -> Network:
        step = step_at(sigma, plan.sigmas)
        return network(branches, tuple(each.window.acts(step) for each in references))

    config = plan.noise if number == 0 else expert.info.schedule
    denoise = make_denoiser(
        network_at,
        plan.schedule,
        config.prediction,
        plan.guider,
        expert.placement.arithmetic,
        plan.branches.negatives,
        config.sigma_data,
    )
    return denoise if inpaints or start.region is None else blend_known(denoise, start.region)


def _summary(plan: Plan, model: Model) -> str:
    """Model, hardware and size, in a line."""
    at, (height, width), count = model.placement, plan.size, len(plan.seeds)
    dtypes = [str(each).removeprefix("torch.") for each in (at.dtype, at.arithmetic)]
    dtype = dtypes[0] if at.dtype is at.arithmetic else f"{dtypes[0]} (arithmetic {dtypes[1]})"
    work = f"{count} image{'s' * (count > 1)} of {width} x {height}, {plan.steps} steps"
    return f"SDXL {model.info.config.kind}, {at.device}, {dtype}, offload {model.offload}, {work}"
