"""A request fitted to a model: sizes, seeds, canvases, the part of the schedule that runs, and which expert runs it.

Everything that can be wrong with the arguments is an error here or in `Request`, before any network runs.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from ..adapters.embedding import Embedding
from ..errors import ArgumentError
from ..images.canvas import Canvas
from ..models.config import ModelConfig
from ..models.schedule_config import ScheduleConfig
from ..sampling.guidance import Guider
from ..sampling.guiders import PAG
from ..sampling.presets import Family
from ..sampling.samplers import SAMPLERS
from ..sampling.schedule import Schedule
from ..sampling.settings import CUSTOM, Value, check_options
from ..sampling.variants import sampler_of, takes_eta
from ..text.encode import Sizes
from ..weights.info import ModelInfo
from .cautions import warn_of_cfg_pp, warn_of_defaults, warn_of_eta, warn_of_masks, warn_of_size, warn_of_syntax
from .controls import ActiveControl
from .extra_networks import Extra
from .guidance_scales import check_guider, make_guidance, most_guidance, step_scales
from .preset import noise_of, with_preset
from .prompts import Branches, make_branches
from .references import ActiveReference
from .request import Request, Size, seeds_of
from .sizing import check_latents, make_canvases, negative_sizes, size_conditioning, work_size
from .sources import Sources, read_sources
from .steps import default_schedule, hand_off, make_steps, steps_of

REFINE_AT = 0.8


@dataclass(frozen=True)
class Plan:
    """What will be generated. `seeds` and all sizes but `size` and `latent_size` have one entry for each image,
    `canvases` too if there are source images.
    """

    request: Request  # with the model's defaults filled in; a source image's size stays open where it was
    sources: Sources
    seeds: tuple[int, ...]
    size: Size  # of the work, in pixels
    latent_size: Size
    canvases: tuple[Canvas, ...]
    sizes: tuple[Sizes, ...]
    negative_sizes: tuple[Sizes, ...]
    refiner_negative_sizes: tuple[Sizes, ...]
    schedule: Schedule
    first: int  # the index of the sigma that the work starts at
    handoff: int  # the index of the sigma at which the second expert takes over
    branches: Branches
    noise: ScheduleConfig  # of the first expert
    embedded_scales: tuple[float, ...] = ()  # of each step, for a UNet that takes the guidance scale as an input
    settings: Mapping[str, Value] = field(default_factory=dict)  # of the sampler: all of its options
    embeddings: tuple[tuple[Embedding, ...], ...] = ()  # for each prompt, those whose words it has
    controls: tuple[ActiveControl, ...] = ()
    lora_hashes: Mapping[str, str] = field(default_factory=dict)  # AUTOMATIC1111's, by the name of the file
    references: tuple[ActiveReference, ...] = ()
    variation_seeds: tuple[int, ...] = ()  # of each image, if its noise is varied
    second: Plan | None = None  # of hires fix: image to image from the enlarged result of this one

    @property
    def passes(self) -> tuple[Plan, ...]:
        """The plan of each pass."""
        return (self,) if self.second is None else (self, self.second)

    @property
    def total_steps(self) -> int:
        """How many steps run in all passes."""
        return sum(each.steps for each in self.passes)

    @property
    def extras(self) -> tuple[Extra, ...]:
        """The networks beside the model's own that its passes need."""
        parts: list[ActiveControl | ActiveReference] = []
        for each in self.passes:
            parts += [*each.controls, *each.references]
        return tuple(extra for part in parts for extra in part.extras)

    @property
    def guider(self) -> Guider:
        """What combines the outputs of its branches."""
        return self.branches.guider

    def texts_of(self, number: int) -> list[str]:
        """All texts that a prompt has in some branch of some pass."""
        return [text for each in self.passes for text in each.branches.texts_of(number)]

    def perturbs(self, block: str) -> bool:
        """Whether PAG perturbs the transformer block of that name."""
        return isinstance(self.request.guider, PAG) and self.request.guider.takes(block)

    @property
    def steps(self) -> int:
        """How many steps of this pass run."""
        return len(self.sigmas) - 1

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels of the steps that run; a single one where there is no step."""
        return self.schedule.sigmas[self.first :]

    def expert_sigmas(self) -> list[tuple[int, tuple[float, ...]]]:
        """The number of each expert that takes part, and the sigmas of its steps."""
        sigmas, first, handoff = self.schedule.sigmas, self.first, max(self.handoff, self.first)
        parts = [(0, sigmas[first : handoff + 1]), (1, sigmas[handoff:])]
        return [(expert, part) for expert, part in parts if len(part) > 1]

    @property
    def source_count(self) -> int:
        """How many canvases differ."""
        return len({*map(id, self.canvases)})

    @property
    def pastes(self) -> bool:
        """Whether results are pasted into their source images."""
        return bool(self.canvases) and (self.request.conventions.paste or self.request.mask_padding is not None)

    @property
    def one_generator(self) -> bool:
        """Whether one generator draws the noise of the whole batch."""
        return self.request.conventions.generators == "batch" and isinstance(self.request.seed, int)

    @property
    def source_seeds(self) -> tuple[int, ...]:
        """The seeds of the generators that draw the noise."""
        return self.seeds[:1] if self.one_generator else self.seeds

    @property
    def from_noise(self) -> bool:
        """Whether inpainting starts from noise alone."""
        rule, has_noise = self.request.conventions.inpaint_start, self.sources.start_noise is not None
        if not self.request.repaints or rule == "image":
            return False
        return self.request.strength == 1 or (rule == "latents" and has_noise)


def make_plan(
    request: Request,
    info: ModelInfo,
    refiner: ModelInfo | None = None,
    families: Sequence[Family] = (),
    before: int = 0,
) -> Plan:
    """Fit a request to a model, and to the refiner that is loaded beside it. `families` are those that its LoRAs'
    files show, before the model's own. A second pass has the `before` steps of the first one. Raises `ArgumentError`.
    """
    request = _with_defaults(request, info, families)
    config, rules, count = info.config, request.conventions, request.count
    configs = [each.config for each in (info, refiner) if each]
    _check_task(request, config, refiner)
    _check_clip_skip(request, configs)
    check_guider(request, configs)
    sources, sampler = read_sources(request), request.sampler or info.schedule.sampler
    total, noise = cast(int, request.steps), noise_of(request, info)
    whole, left = steps_of(total, request.strength, sampler, rules)
    steps = whole if left is None else left
    canvases = make_canvases(request, sources, config, steps)
    size = work_size(request, sources, config, canvases)
    latent_size = check_latents(request, sources, config, size)
    schedule_name = request.schedule or default_schedule(info.schedule, sampler, rules)
    schedule_name = CUSTOM if request.levels is not None else schedule_name
    eta = _eta(request, sampler)
    settings = _settings(request, sampler, schedule_name, eta)
    schedule, first = make_steps(request, noise, schedule_name, sampler, whole, left)
    warn_of_masks(request, config, sources, canvases, steps)
    warn_of_size(request, sources, config, size)
    warn_of_syntax(request)
    warn_of_defaults(request, info.schedule)
    warn_of_cfg_pp(request, sampler)
    warn_of_eta(request, sampler, eta)
    refine_at = request.refine_at if refiner is None or request.refine_at is not None else REFINE_AT
    is_one = rules.generators == "batch"
    seeds = seeds_of(_drawn(request.seed), count, advance=not request.varies and not is_one)
    variation_seeds = seeds_of(_drawn(request.variation_seed), count, "variation_seed") if request.varies else ()
    resolved = replace(
        request,
        height=size[0] if request.image is None else request.height,
        width=size[1] if request.image is None else request.width,
        sampler=sampler,
        schedule=None if schedule_name == CUSTOM else schedule_name,
        steps=total,
        eta=eta,
        seed=seeds[0] if is_one and len({*seeds}) == 1 else list(seeds),
        variation_seed=list(variation_seeds) or request.variation_seed,
        refine_at=refine_at,
    )
    conditioning = [size_conditioning(request, size, canvas, config.kind) for canvas in canvases or [None] * count]
    sigmas = schedule.sigmas[first:]
    scales = step_scales(request, max(total, len(sigmas) - 1), len(schedule.timesteps))
    is_embedded = config.unet.guidance_dim is not None
    guidance = make_guidance(request, scales[first:], sigmas, is_embedded)
    return Plan(
        request=resolved,
        sources=sources,
        seeds=seeds,
        size=size,
        latent_size=latent_size,
        canvases=canvases,
        sizes=tuple(sizes for sizes, _ in conditioning),
        negative_sizes=tuple(negative for _, negative in conditioning),
        refiner_negative_sizes=tuple(negative_sizes(request, sizes, "refiner") for sizes, _ in conditioning),
        schedule=schedule,
        first=first,
        handoff=hand_off(request, schedule, refine_at, info.schedule.train_steps),
        branches=make_branches(resolved, replace(guidance, always=SAMPLERS[sampler].with_pair), sigmas, before),
        noise=noise,
        embedded_scales=scales if is_embedded else (),
        settings=settings,
        variation_seeds=variation_seeds,
    )


def _with_defaults(request: Request, info: ModelInfo, families: Sequence[Family]) -> Request:
    """What is left open, by the preset, the conventions and the task."""
    filled, rules = with_preset(request, info, families), request.conventions
    if rules.guidance_off == "only_1" and request.guidance_scale is None and most_guidance(filled) <= 1:
        filled = replace(filled, guidance_scale=1.0)  # a preset's guidance of 0 is none
    if request.image is None or request.strength is not None or request.levels is not None:
        return filled
    repaints = request.repaints and info.config.kind != "refiner"
    return replace(filled, strength=rules.mask_strength if repaints else rules.strength)


def _eta(request: Request, sampler: str) -> float:
    """The share of noise that is drawn again: the request's, where the conventions have it act, else the sampler's
    own.
    """
    options = sampler_of(sampler, request.conventions.samplers).options
    if request.eta and "eta" not in options:
        able = ", ".join(name for name, record in SAMPLERS.items() if "eta" in record.options)
        raise ArgumentError(f"eta is {request.eta} but the sampler is {sampler}; eta belongs to {able}")
    own = float(options.get("eta", 0.0))
    return own if request.eta is None or not takes_eta(sampler, request.conventions.samplers) else request.eta


def _settings(request: Request, sampler: str, schedule: str, eta: float) -> dict[str, Value]:
    """All options of the sampler: the request's, else its own by the conventions."""
    given, rules = request.sampler_options or {}, request.conventions
    check_options(given, sampler, schedule, eta)
    own = dict(sampler_of(sampler, rules.samplers).options)
    if rules.sde_noise == "fresh" and "noise" in own and sampler != "dpmpp_sde":
        own["noise"] = "fresh"
    if "eta" in own:
        own["eta"] = eta
    return {name: given.get(name, value) for name, value in own.items()}


def _check_task(request: Request, config: ModelConfig, refiner: ModelInfo | None) -> None:
    """The model must be able to do what is asked."""
    if config.kind == "refiner" and request.image is None:
        raise ArgumentError(
            "this model is an SDXL refiner, which does not generate from text alone; give it an image, or load a base "
            "model with refiner="
        )
    if config.kind == "inpainting" and not request.repaints:
        raise ArgumentError("this model is SDXL inpainting, which needs an image and a mask; load a base model instead")
    if request.refine_at is not None and refiner is None:
        raise ArgumentError(f"refine_at is {request.refine_at} but no refiner is loaded; load one with refiner=")


def _check_clip_skip(request: Request, configs: Sequence[ModelConfig]) -> None:
    encoders = [encoder for config in configs for encoder in (config.text_encoder, config.text_encoder_2)]
    layers = min(encoder.layers for encoder in encoders if encoder)
    if (request.clip_skip or 0) >= layers:
        raise ArgumentError(
            f"clip_skip is {request.clip_skip}; with text encoders of {layers} layers it is at most {layers - 1}"
        )


def _drawn(seed: int | Sequence[int] | None) -> int | Sequence[int]:
    """A seed, by lot where none is given."""
    return secrets.randbelow(2**32) if seed is None else seed
