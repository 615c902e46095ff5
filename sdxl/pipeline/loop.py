"""The denoising loop: every image passes through it, whatever the task."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from ..models.conditioned import perturb, precompute
from ..sampling.denoiser import Network, make_denoiser
from ..sampling.guidance import is_perturbed
from ..sampling.inpaint import blend_known, with_channels
from ..sampling.sampler import Denoiser, Noise, Step
from ..sampling.variants import sampler_of
from .finite import check_finite
from .latents import Latents
from .model import Model
from .noise import make_noise, step_noise
from .plan import Plan
from .result import PipelineStep
from .stages import report, report_end, stage
from .start import Start, make_start


@torch.no_grad()
def run(
    plan: Plan, model: Model, latents: Latents, generators: Sequence[torch.Generator] | None = None
) -> Generator[PipelineStep, None, None]:
    """The steps of a plan. One expert after the other takes x down its part of the sigmas. The noise comes from the
    plan's seeds, or from generators in place of them.
    """
    shape = model.info.config.vae.latent_channels, *plan.latent_size
    noise = make_noise(plan, shape, model.placement.device, generators)
    report("start", _summary(plan, model), total=plan.steps, level=logging.INFO)
    start = make_start(plan, latents, noise)
    of_steps = step_noise(plan, noise)
    x, index = start.x, 0
    if not plan.steps:  # strength 0: the image as it is
        yield PipelineStep(0, 0, plan.sigmas[0], x, x)
    began = time.perf_counter()
    for number, sigmas in plan.stages():
        for step in _stage(number, sigmas, x, plan, model, start, of_steps(sigmas)):
            x, index = step.x, index + 1
            report("steps", f"step {index} of {plan.steps}, sigma {step.sigma:.3g}", index, plan.steps)
            result = start.result(x, plan) if index == plan.steps else x
            yield PipelineStep(index - 1, plan.steps, step.sigma, result, step.denoised)
    report_end("sampling", time.perf_counter() - began, model.placement)


def _stage(
    number: int, sigmas: Sequence[float], x: Tensor, plan: Plan, model: Model, start: Start, noise: Noise
) -> Iterator[Step]:
    """The steps of one expert."""
    expert = model.experts[number]
    sampler = sampler_of(str(plan.request.sampler), plan.request.conventions.samplers)
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
    unet = expert.unet()
    scales = plan.embedded_scales if unet.guidance_embed is not None else ()
    conditioned = precompute(unet, conditionings, plan.schedule.timesteps, scales)
    inpaints = start.channels is not None and unet.config.in_channels > start.x.shape[1]

    @cache
    def network(branches: tuple[str, ...]) -> Network:
        selected = perturb(conditioned.select(branches), is_perturbed, plan.perturbs)
        each: Network = selected if model.graphs is None else model.graphs.network(selected, start.x.shape)
        return with_channels(each, start.channels) if inpaints and start.channels is not None else each

    config = plan.noise if number == 0 else expert.info.schedule
    denoise = make_denoiser(
        network,
        plan.schedule,
        config.prediction,
        plan.guider,
        expert.placement.arithmetic,
        plan.branches.negatives,
        config.sigma_data,
    )
    is_blended = start.region is not None and (not inpaints or plan.request.conventions.known_9)
    return blend_known(denoise, start.region) if is_blended and start.region is not None else denoise


def _summary(plan: Plan, model: Model) -> str:
    """Model, hardware and size, in a line."""
    at, (height, width), count = model.placement, plan.size, len(plan.seeds)
    dtypes = [str(each).removeprefix("torch.") for each in (at.dtype, at.arithmetic)]
    dtype = dtypes[0] if at.dtype is at.arithmetic else f"{dtypes[0]} (arithmetic {dtypes[1]})"
    work = f"{count} image{'s' * (count > 1)} of {width} x {height}, {plan.steps} steps"
    return f"SDXL {model.info.config.kind}, {at.device}, {dtype}, offload {model.offload}, {work}"
