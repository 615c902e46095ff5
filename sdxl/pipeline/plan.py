"""A request fitted to a model: sizes, seeds, canvases, the part of the schedule that runs, and which expert runs it.

Everything that can be wrong with the arguments is an error here or in `Request`, before any network runs.
"""

from __future__ import annotations

import math
import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from torch import Tensor

from ..adapters.embedding import Embedding
from ..errors import ArgumentError, SDXLWarning, brief
from ..images.canvas import Canvas, extend, fit_image, make_canvas
from ..images.image import MOST_PIXELS
from ..images.pixels import to_tensor
from ..models.config import ModelConfig
from ..models.schedule_config import ScheduleConfig
from ..sampling.guidance import Guidance, Guider, Scales
from ..sampling.guiders import PAG, NamedGuider
from ..sampling.presets import Family
from ..sampling.samplers import SAMPLERS
from ..sampling.schedule import Schedule
from ..sampling.settings import CUSTOM, Value, check_options
from ..sampling.variants import sampler_of
from ..text.constructs import find_constructs
from ..text.encode import Sizes
from ..weights.info import ModelInfo
from .controlling import ActiveControl
from .extras import Extra
from .idle import warn_of_idle
from .preset import noise_of, with_preset
from .prompts import Branches, make_branches
from .referencing import ActiveReference
from .request import TEXTS, Request, Size, spread
from .sources import Sources, read_sources
from .steps import default_schedule, hand_off, make_steps, steps_of

REFINE_AT = 0.8
_MANY_TIMES = 5
_MOST_CFG_PP = 3


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

    def stages(self) -> list[tuple[int, tuple[float, ...]]]:
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
    request: Request, info: ModelInfo, refiner: ModelInfo | None = None, families: Sequence[Family] = ()
) -> Plan:
    """Fit a request to a model, and to the refiner that is loaded beside it. `families` are those that its LoRAs'
    files show, before the model's own. Raises `ArgumentError`.
    """
    given, request = request, with_preset(request, info, families)
    noise = noise_of(request, info)
    rules = request.conventions
    if rules.guidance_off == "only_1" and given.guidance_scale is None and _most_guidance(request) <= 1:
        request = replace(request, guidance_scale=1.0)  # a preset's guidance of 0 is none
    _check_task(request, info.config, refiner)
    sources, count = read_sources(request), request.count
    _check_images(request, sources, info.config)
    strength = request.strength
    if request.image is not None and strength is None and request.levels is None:
        repaints = request.repaints and info.config.kind != "refiner"
        strength = rules.mask_strength if repaints else rules.strength
    total, sampler = cast(int, request.steps), request.sampler or info.schedule.sampler
    whole, left = steps_of(total, strength, sampler, rules)
    steps = whole if left is None else left
    canvases = _canvases(request, sources, info.config, steps)
    size, factor = _size(request, sources, info.config, canvases), info.config.vae.factor
    latent_size = size[0] // factor, size[1] // factor
    shape = (count, info.config.vae.latent_channels, *latent_size)
    _check_latents(sources.start_noise, shape)
    _check_image_latents(request, sources, size, shape)
    _check_clip_skip(request, [each.config for each in (info, refiner) if each])
    eta = _eta(request, sampler)
    schedule_name = request.schedule or default_schedule(info.schedule, sampler, rules)
    schedule_name = CUSTOM if request.levels is not None else schedule_name
    options = request.sampler_options or {}
    check_options(options, sampler, schedule_name, eta)
    schedule, first = make_steps(request, noise, schedule_name, sampler, whole, left)
    _warn_of_idle_masks(request, info.config, sources, canvases, steps)
    _warn_of_size(request, sources, info.config, size)
    warn_of_syntax(request)
    _warn_of_defaults(request, info.schedule)
    _warn_of_cfg_pp(request, sampler)
    refine_at = request.refine_at if refiner is None or request.refine_at is not None else REFINE_AT
    is_one = rules.generators == "batch"
    seeds = _seeds(request.seed, count, advance=not request.varies and not is_one)
    variation_seeds = _seeds(request.variation_seed, count, "variation_seed") if request.varies else ()
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
        strength=strength,
        refine_at=refine_at,
    )
    conditioning = [_sizes(request, size, canvases[i] if canvases else None, info.config.kind) for i in range(count)]
    sigmas = schedule.sigmas[first:]
    scales = _scales(request, max(total, len(sigmas) - 1), len(schedule.timesteps))
    is_embedded = info.config.unet.guidance_dim is not None
    _check_guider(request, [each.config for each in (info, refiner) if each])
    guidance = _guidance(request, scales[first:], sigmas, is_embedded)
    settings = {name: options.get(name, value) for name, value in sampler_of(sampler, rules.samplers).options.items()}
    if rules.sde_noise == "fresh" and "noise" in settings and sampler != "dpmpp_sde":
        settings["noise"] = options.get("noise", "fresh")
    plan = Plan(
        request=resolved,
        sources=sources,
        seeds=seeds,
        size=size,
        latent_size=latent_size,
        canvases=canvases,
        sizes=tuple(sizes for sizes, _ in conditioning),
        negative_sizes=tuple(negative for _, negative in conditioning),
        refiner_negative_sizes=tuple(_negative(request, sizes, "refiner") for sizes, _ in conditioning),
        schedule=schedule,
        first=first,
        handoff=hand_off(request, schedule, refine_at, info.schedule.train_steps),
        branches=make_branches(resolved, replace(guidance, always=SAMPLERS[sampler].with_pair), sigmas),
        noise=noise,
        embedded_scales=scales if is_embedded else (),
        settings=settings | ({"eta": eta} if "eta" in settings else {}),
        variation_seeds=variation_seeds,
    )
    warn_of_idle(plan, given, tuple(each.config.kind for each in (info, refiner) if each))
    return plan


def _scales(request: Request, steps: int, whole: int) -> tuple[float, ...]:
    """The guidance scale of each of the `whole` steps of the schedule, of which a list says the last `steps`."""
    scale = request.guidance_scale
    if not isinstance(scale, Sequence):
        return (scale or 0.0,) * whole
    if len(scale) != steps:
        raise ArgumentError(
            f"guidance_scale has {len(scale)} numbers for {steps} steps; expected one number, or one for each step"
        )
    return (scale[0],) * (whole - steps) + tuple(scale)


def _most_guidance(request: Request) -> float:
    scale = request.guidance_scale
    return max(scale) if isinstance(scale, Sequence) else scale or 0.0


def _guidance(request: Request, scales: tuple[float, ...], sigmas: tuple[float, ...], is_embedded: bool) -> Guidance:
    """The guidance of the steps that run, whose scales and sigmas these are; of a UNet that takes the scale as an input
    there is none outside of it.
    """
    scale: float | Scales = request.guidance_scale if isinstance(request.guidance_scale, float | int) else 1.0
    if isinstance(request.guidance_scale, Sequence) and scales:
        scale = Scales(scales, sigmas[:-1])
    return Guidance(
        1.0 if is_embedded else scale,
        request.guidance_rescale or 0.0,
        request.guidance_interval or (0.0, math.inf),
        cast("NamedGuider | None", request.guider),
        off_below_1=request.conventions.guidance_off == "at_most_1",
        rescales_v=request.conventions.rescale == "v",
    )


def _check_guider(request: Request, configs: Sequence[ModelConfig]) -> None:
    """PAG's layers must be parts of the UNets."""
    if not isinstance(request.guider, PAG):
        return
    for config in configs:
        names = config.unet.block_names()
        for layer in request.guider.layers:
            if not any(PAG(layers=(layer,)).takes(name) for name in names):
                parts = sorted({name.split(".attn")[0] for name in names})
                raise ArgumentError(
                    f"layers of pag has {brief(layer)}, and the UNet of the {config.kind} model has no self-attention "
                    f"there; expected parts of {', '.join(parts)}"
                )


def _eta(request: Request, sampler: str) -> float:
    """The share of noise that is drawn again: the request's, else the sampler's own."""
    options = SAMPLERS[sampler].options
    if request.eta and "eta" not in options:
        able = ", ".join(name for name, record in SAMPLERS.items() if "eta" in record.options)
        raise ArgumentError(f"eta is {request.eta} but the sampler is {sampler}; eta belongs to {able}")
    return float(options.get("eta", 0.0)) if request.eta is None else request.eta


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


def _check_images(request: Request, sources: Sources, config: ModelConfig) -> None:
    if config.kind == "inpainting" and sources.image_latents is not None:
        raise ArgumentError("the image is latents, and an inpainting model must see its pixels; give an image")


def _canvases(request: Request, sources: Sources, config: ModelConfig, steps: int) -> tuple[Canvas, ...]:
    """One canvas for each image to generate in that many steps, shared where the source is."""
    if sources.images is None:
        return ()
    masks: Sequence[Any] = sources.masks or [None]
    number = max(len(sources.images), len(masks))
    pairs = list(zip(spread(sources.images, number), spread(masks, number), strict=True))
    if request.outpaint:
        pairs = [extend(image, mask, request.outpaint) for image, mask in pairs]
    if (request.height, request.width, request.mask_padding) == (None,) * 3:
        pairs = [fit_image(image, mask, request.conventions.image_size) for image, mask in pairs]
    made = [
        make_canvas(
            image,
            mask,
            (request.height, request.width),
            config.native_size,
            config.vae.factor,
            _darkest(request, config, steps),
            request.mask_padding,
            request.feather or 0,
        )
        for image, mask in pairs
    ]
    return tuple(spread(made, request.count))


def _size(request: Request, sources: Sources, config: ModelConfig, canvases: Sequence[Canvas]) -> Size:
    """The (height, width) that is worked on."""
    factor = config.vae.factor
    if canvases:
        height, width = canvases[0].size
        if other := [canvas.size for canvas in canvases if canvas.size != (height, width)]:
            raise ArgumentError(
                f"the images are worked on at {width} x {height} and {other[0][1]} x {other[0][0]}, and a batch must "
                "be of one size; give width and height, or generate them one after the other"
            )
    else:
        given = sources.image_latents if sources.image_latents is not None else sources.start_noise
        height, width = config.native_size
        if given is not None and given.ndim == 4:
            height, width = (side * factor for side in given.shape[-2:])
        height, width = request.height or height, request.width or width
    for name, side in (("width", width), ("height", height)):
        if side % factor:
            raise ArgumentError(
                f"{name} is {side}; it must be a multiple of {factor}: try {max(side // factor, 1) * factor}"
            )
    if height * width > MOST_PIXELS:
        raise ArgumentError(
            f"{width} x {height} is more than {MOST_PIXELS} pixels; SDXL was made for about 1024 x 1024, give less"
        )
    return height, width


def _check_latents(latents: Tensor | None, shape: tuple[int, ...]) -> None:
    if latents is not None and tuple(latents.shape) != shape:
        raise ArgumentError(f"latents have shape {list(latents.shape)}; they must be {list(shape)}")


def _check_image_latents(request: Request, sources: Sources, size: Size, shape: tuple[int, ...]) -> None:
    """Latents given as the image are (B, 4, h, w), or a part of them that goes evenly into the B images."""
    latents = sources.image_latents
    if latents is None:
        return
    if latents.shape[1:] != shape[1:] or shape[0] % len(latents):
        raise ArgumentError(f"the image's latents have shape {list(latents.shape)}; they must be {list(shape)}")
    height, width = size
    for mask in sources.masks or ():
        if mask.size != (width, height):
            raise ArgumentError(
                f"mask is {mask.width} x {mask.height} and the image's latents are those of {width} x {height}; "
                "they must be of the same size"
            )
    if request.mask_padding is not None:
        raise ArgumentError("mask_padding cuts a box out of an image, and the image is latents; give an image")


def _check_clip_skip(request: Request, configs: Sequence[ModelConfig]) -> None:
    encoders = [encoder for config in configs for encoder in (config.text_encoder, config.text_encoder_2)]
    layers = min(encoder.layers for encoder in encoders if encoder)
    if (request.clip_skip or 0) >= layers:
        raise ArgumentError(
            f"clip_skip is {request.clip_skip}; with text encoders of {layers} layers it is at most {layers - 1}"
        )


def _darkest(request: Request, config: ModelConfig, steps: int) -> int:
    """The darkest grey of a mask (1 to 255) that is repainted: with 4 channels in int(grey / 255 * steps) steps."""
    if (rule := request.conventions.grey) != "steps":
        return 128 if rule == "binary" else 1
    return 128 if config.kind == "inpainting" else math.ceil(255 / max(steps, 1))


def _warn_of_idle_masks(
    request: Request, config: ModelConfig, sources: Sources, canvases: Sequence[Canvas], steps: int
) -> None:
    """A mask may miss every latent's pixel, or be too dark for the number of steps, and then changes nothing."""
    factor, least = config.vae.factor, _darkest(request, config, steps) / 255
    if canvases:
        with_mask = [canvas for canvas in {id(each): each for each in canvases}.values() if canvas.mask is not None]
        masks = [canvas.work_mask for canvas in with_mask]
    else:
        masks = [to_tensor(mask) for mask in sources.masks or ()]
    if any(mask[:, ::factor, ::factor].max() < least - 1e-4 for mask in masks):
        warnings.warn(
            "the mask repaints nothing: it is black, or too small or too dark for this size and number of steps; "
            "white is repainted, and mask_padding enlarges what is small",
            SDXLWarning,
            stacklevel=2,
        )


def _warn_of_size(request: Request, sources: Sources, config: ModelConfig, size: Size) -> None:
    """A photo may be many times as large as the images that SDXL was trained on, and take as many times longer."""
    times = size[0] * size[1] / (config.native_size[0] * config.native_size[1])
    if sources.images is not None and (request.height, request.width) == (None, None) and times > _MANY_TIMES:
        warnings.warn(
            f"the image is worked on at its own {size[1]} x {size[0]}, {times:.0f} times the size that the model was "
            "trained on; give width and height, or a mask with mask_padding, to work on less",
            SDXLWarning,
            stacklevel=2,
        )


def warn_of_syntax(request: Request) -> None:
    """One warning for all that the syntax of the request takes for words."""
    found: dict[tuple[str, ...], dict[str, None]] = {}
    for name in TEXTS:
        for text in request.texts(name) or ():
            for each in find_constructs(text, request.prompt_syntax, negative=name.startswith("negative")):
                more = f" and {each.count - 1} more" if each.count > 1 else ""
                found.setdefault(each.readers, {})[f"{brief(each.example)}{more}"] = None
    if not found:
        return
    parts = []
    for readers, examples in found.items():
        read = f"prompt_syntax {' or '.join(readers)} reads" if readers else "no switch reads"
        parts.append(f"{read} {', '.join(examples)}")
    warnings.warn(
        f"the prompts have syntax that is words in prompt_syntax {request.prompt_syntax}: {'; '.join(parts)}",
        SDXLWarning,
        stacklevel=2,
    )


def _warn_of_defaults(request: Request, config: ScheduleConfig) -> None:
    """The model's files may recommend a sampler or a schedule that is not supported."""
    schedule = request.schedule or request.levels
    notes = ((request.sampler, config.sampler_note), (schedule, config.schedule_note))
    for note in [note for given, note in notes if note and not given]:
        warnings.warn(note, SDXLWarning, stacklevel=2)


def _warn_of_cfg_pp(request: Request, sampler: str) -> None:
    """The guidance of CFG++ is of another scale."""
    scale = _most_guidance(request)
    if SAMPLERS[sampler].with_pair and scale > _MOST_CFG_PP:
        warnings.warn(
            f"guidance_scale is {scale:g} and the sampler is {sampler}, whose guidance is stronger; give 1 to 2",
            SDXLWarning,
            stacklevel=2,
        )


def _sizes(request: Request, size: Size, canvas: Canvas | None, kind: str) -> tuple[Sizes, Sizes]:
    """The size conditioning of an image, and of its negative prompt, by a model of a kind.

    With `mask_padding` it is the real position of the window, unless the conventions are others; arguments of the
    caller take precedence.
    """
    is_placed = request.mask_padding is not None and request.conventions.padded_sizes == "place"
    cut = canvas if is_placed else None
    original = request.original_size or (cut.original_size if cut else size)
    crop = request.crop_top_left or (cut.crop_top_left if cut else (0, 0))
    sizes = Sizes(original, crop, request.target_size or size, request.aesthetic_score)
    return sizes, _negative(request, sizes, kind)


def _negative(request: Request, sizes: Sizes, kind: str) -> Sizes:
    """The size conditioning of the negative prompt beside that of the prompt."""
    original, crop = request.negative_original_size, request.negative_crop_top_left
    target, score = request.negative_target_size, request.negative_aesthetic_score
    if request.conventions.negative_sizes == "pair":  # diffusers'
        if kind == "refiner":
            crop = crop or (0, 0)
        elif request.image is not None:
            crop = None
        elif original is None or target is None:
            original = crop = target = None
        else:
            crop = crop or (0, 0)
    return Sizes(original or sizes.original, crop or sizes.crop, target or sizes.target, score)


def _seeds(seed: int | Sequence[int] | None, count: int, name: str = "seed", advance: bool = True) -> tuple[int, ...]:
    """The seed of each image: the given ones, or the numbers from the first one on, or that one for all."""
    if isinstance(seed, Sequence):
        if len(seed) != count:
            raise ArgumentError(
                f"{name} has {len(seed)} entries for {count} images; give one for each, or a single one"
            )
        return tuple(seed)
    first = secrets.randbelow(2**32) if seed is None else seed
    return tuple(first + i if advance else first for i in range(count))
