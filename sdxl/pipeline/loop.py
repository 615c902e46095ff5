"""The denoising loop: every image passes through it, whatever the task, and twice with hires fix."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import cache, reduce

import torch
from torch import Tensor

from ..errors import ArgumentError, brief
from ..models.conditioned import ConditionedUNet, Conditioning, perturb, precompute, with_sources
from ..models.unet import UNet
from ..sampling.denoiser import Network, Networks, make_denoiser
from ..sampling.guidance import is_perturbed
from ..sampling.inpaint import blend_known, with_channels
from ..sampling.sampler import Denoiser, Noise, Step
from ..sampling.variants import sampler_of
from .control_steering import Steering
from .expert import Expert
from .finite import check_finite
from .hires_enlargement import with_enlarged
from .latents import Latents
from .model import Model
from .noise import step_noise
from .own_networks import check_placement
from .plan import Plan
from .reference_attention import attended
from .result import PipelineStep
from .stages import report, report_end, stage
from .start import Start, make_start
from .variation import BatchNoise, noise_of_pass
from .window import step_at


@torch.no_grad()
def run(
    plan: Plan, model: Model, latents: Latents, generators: Sequence[torch.Generator] | None = None
) -> Generator[PipelineStep, None, None]:
    """The steps of a plan, pass by pass. One expert after the other takes x down its part of the sigmas. The noise
    comes from the plan's seeds, or from generators in place of them; a second pass draws on.
    """
    channels, total, index = model.info.config.vae.latent_channels, plan.total_steps, 0
    report("start", _summary(plan, model), total=total, level=logging.INFO)
    z: Tensor | None = None  # the result of the pass before
    noise: BatchNoise | None = None
    for each in plan.passes:
        shape = channels, *each.latent_size
        noise = noise_of_pass(plan, noise, shape, model.placement.device, generators)
        if z is not None:
            each = with_enlarged(each, plan, z, latents, noise)
        start = make_start(each, latents, noise)
        z, began, last = start.x, time.perf_counter(), index + each.steps
        if not each.steps:  # strength 0: the image as it is
            yield PipelineStep(0, 0, each.sigmas[0], z, z)
        for step in _pass(each, model, start, noise):
            index += 1
            report("steps", f"step {index} of {total}, sigma {step.sigma:.3g}", index, total)
            z = start.result(step.x, each) if index == last else step.x
            yield PipelineStep(index - 1, total, step.sigma, z, step.denoised)
        report_end("sampling", time.perf_counter() - began, model.placement)


def _pass(plan: Plan, model: Model, start: Start, noise: BatchNoise) -> Iterator[Step]:
    """The steps of one pass."""
    of_steps, x = step_noise(plan, noise), start.x
    for number, sigmas in plan.expert_sigmas():
        for step in _expert_steps(number, sigmas, x, plan, model, start, of_steps(sigmas)):
            x = step.x
            yield step


def _expert_steps(
    number: int, sigmas: Sequence[float], x: Tensor, plan: Plan, model: Model, start: Start, noise: Noise
) -> Iterator[Step]:
    """The steps of one expert."""
    expert = model.experts[number]
    sampler = sampler_of(str(plan.request.sampler), plan.request.conventions.samplers)
    options = {name: value for name, value in plan.settings.items() if name != "noise"}
    nets = [] if number else [model.extra(each.network) for each in plan.controls]
    with model.using(expert.unet, expert.text, *nets):
        denoise = _denoiser(number, plan, model, start)
        steps = sampler(denoise, x, sigmas, noise, levels=plan.schedule.table, **options)
        for left, step in _counted(steps, len(sigmas) - 1, str(plan.request.sampler)):
            if not left:  # looked at once, since it makes the host wait for the GPU
                check_finite(step.x, f"the UNet of the {expert.info.config.kind} model", expert.placement)
            yield step


def _counted(steps: Iterator[Step], count: int, name: str) -> Iterator[tuple[int, Step]]:
    """The steps of a sampler, which may be a user's own, each with the number of those that are left."""
    number = 0
    for number, step in enumerate(steps, 1):
        if not isinstance(step, Step) or number > count:
            given = f"step {number} of {count}" if isinstance(step, Step) else brief(step)
            raise ArgumentError(f"sampler {name} gives {given}; expected a Step for each pair of neighbouring sigmas")
        yield count - number, step
    if number < count:
        raise ArgumentError(f"sampler {name} gives {number} of {count} steps; expected one for each pair of sigmas")


def _denoiser(number: int, plan: Plan, model: Model, start: Start) -> Denoiser:
    """An expert's guess for x, with the known part of the image kept."""
    expert = model.experts[number]
    networks = _networks(number, plan, model, start)
    config = plan.noise if number == 0 else expert.info.schedule
    denoise = make_denoiser(
        networks,
        plan.schedule,
        config.prediction,
        plan.guider,
        expert.placement.arithmetic,
        plan.branches.negatives,
        config.sigma_data,
    )
    sees_it = _channels(expert.unet(), start) is not None
    if start.region is None or (sees_it and not plan.request.conventions.known_9):
        return denoise
    return blend_known(denoise, start.region)


def _networks(number: int, plan: Plan, model: Model, start: Start) -> Networks:
    """An expert's UNet for the branches of a step, under the controls and references that act in it, each made once."""
    expert = model.experts[number]
    conditionings = _conditionings(expert, plan, model)
    references = attended(plan, model) if number == 0 else []
    unet = expert.unet()
    check_placement(unet, expert.placement)
    scales = plan.embedded_scales if unet.guidance_embed is not None else ()
    conditioned = precompute(unet, conditionings, plan.schedule.timesteps, scales)
    steering = Steering(plan if number == 0 else replace(plan, controls=()), model, conditionings)
    channels = _channels(unet, start)

    @cache
    def seeing(shown: tuple[int, ...]) -> ConditionedUNet:
        return reduce(with_sources, [references[n].sources for n in shown], conditioned)

    @cache
    def made(branches: tuple[str, ...], shown: tuple[int, ...], controls: tuple[int, ...]) -> Network:
        selected = perturb(seeing(shown).select(branches), is_perturbed, plan.perturbs)
        selected = steering.steered(selected, controls)
        each: Network = selected if model.graphs is None else model.graphs.network(selected, start.x.shape)
        return each if channels is None else with_channels(each, channels)

    def network(branches: tuple[str, ...], sigma: float) -> Network:
        step = step_at(sigma, plan.sigmas)
        shown = tuple(n for n, each in enumerate(references) if each.window.acts(step))
        return made(branches, shown, steering.active(sigma))

    return network


def _conditionings(expert: Expert, plan: Plan, model: Model) -> dict[str, Conditioning]:
    """The conditioning of each guidance branch, whose tensors are finite. The text encoders are released."""
    with stage("text", expert.placement):
        conditionings = expert.condition(plan)
    model.release(expert.text)
    for each in conditionings.values():
        for tensor in (*each.groups, each.vector):
            check_finite(tensor, f"a text encoder of the {expert.info.config.kind} model", expert.placement)
    return conditionings


def _channels(unet: UNet, start: Start) -> Tensor | None:
    """The channels that a UNet sees beside x; a refiner of 4 channels sees none beside an inpainting model's either."""
    return start.channels if unet.config.in_channels > start.x.shape[1] else None


def _summary(plan: Plan, model: Model) -> str:
    """Model, hardware and size, in a line."""
    at, count, sizes = model.placement, len(plan.seeds), [f"{each.size[1]} x {each.size[0]}" for each in plan.passes]
    dtypes = [str(each).removeprefix("torch.") for each in (at.dtype, at.arithmetic)]
    dtype = dtypes[0] if at.dtype is at.arithmetic else f"{dtypes[0]} (arithmetic {dtypes[1]})"
    steps = " + ".join(str(each.steps) for each in plan.passes)
    work = f"{count} image{'s' * (count > 1)} of {', then '.join(sizes)}, {steps} step{'s' * (steps != '1')}"
    return f"SDXL {model.info.config.kind}, {at.device}, {dtype}, offload {model.offload}, {work}"
