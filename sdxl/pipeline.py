"""The pipeline: a model in memory, and the one loop that draws with it."""

from __future__ import annotations

import gc
import inspect
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from . import hub
from .aliases import advice
from .checkpoint import Description, check_folder, open_checkpoint, open_part
from .compile import Graph, compile_blocks
from .conditioning import TextMemo, TextStage
from .denoise import Guidance, Known, Network, Told, keep_known, make_denoiser, tell, with_channels
from .device import Placement, choose_device, choose_dtype
from .errors import ArgumentError, NonFiniteError, OutOfMemoryError, SDXLWarning
from .expert import Expert, Loader, Part
from .image import check_latents, check_pixels, to_pil, to_tensor
from .keymap import UNET, VAE
from .memory import (
    ROOM,
    Offload,
    available,
    check_room,
    choose_offload,
    is_out_of_memory,
    next_smaller,
    trim,
    used,
    vae_bytes,
)
from .parameters import describe
from .plan import Plan, make_plan
from .request import Request, spread
from .samplers import SAMPLERS, Denoiser, Sampler, Step
from .strips import decode_strips, encode_strips
from .unet import UNet
from .vae import VAE as VAEModel

if TYPE_CHECKING:
    from PIL.Image import Image

Output = Literal["pil", "tensor", "latent"]
T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class PipelineStep:
    """The state after step `index` of `total`: `latents` at noise level `sigma`, and the guess of the clean ones.

    Both are (B, 4, H/8, W/8), float32; after the last step `latents` are the result. Who writes into `latents` changes
    what the next steps go on from.
    """

    index: int
    total: int
    sigma: float
    latents: Tensor
    denoised: Tensor


@dataclass(frozen=True)
class Result:
    """`images` as asked for: PIL pictures, a tensor (B, 3, H, W) in 0..1, or latents (B, 4, H/8, W/8).

    `seeds[i]` and `parameters[i]` belong to picture i: all that is needed to make it again.
    """

    images: list[Image] | Tensor
    seeds: list[int]
    parameters: list[dict[str, Any]]


class Noise:
    """Standard normal tensors, each picture's from a CPU float32 generator of its own: a picture depends neither on the
    others of its batch nor on the device."""

    def __init__(self, seeds: Sequence[int], shape: tuple[int, int, int], device: torch.device) -> None:
        self.shape, self.device = shape, device
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self) -> Tensor:
        """The next tensor (B, C, h, w)."""
        draws = [torch.randn((1, *self.shape), generator=g, dtype=torch.float32) for g in self._generators]
        return torch.cat(draws).to(self.device)


def _with_request_arguments(method: Method) -> Method:
    """Show `Request`'s fields in help() and notebooks where a method takes them as **arguments."""
    shown = inspect.signature(method)
    own = [each for each in shown.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    taken = {each.name for each in own}
    more = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
        for each in fields(Request)
        if each.name not in taken
    ]
    method.__signature__ = shown.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    return method


@dataclass(frozen=True)
class Start:
    """Where the denoising loop begins: the first x, the part of the picture that is kept, and the channels that an
    inpainting model wants beside x.
    """

    x: Tensor
    known: Known | None = None
    channels: Tensor | None = None


class Pipeline:
    """A model in memory. Call it with a prompt; `steps` is the generator underneath.

    Shares nothing between calls: the same arguments give the same picture.
    """

    def __init__(
        self,
        experts: Sequence[Expert],
        vae: Part[VAEModel],
        source: dict[str, Any] | None = None,
        offload: str = "none",
        max_memory: int | None = None,
        loader: Loader | None = None,
    ) -> None:
        """`experts` are a model and, if there is one, the refiner that ends what it began. With a `loader` the pipeline
        may change what is in memory at a time.
        """
        self.experts, self.source, self.offload, self.max_memory = tuple(experts), source or {}, offload, max_memory
        self._vae, self._loader = vae, loader
        self._lock = threading.RLock()  # one picture at a time, whatever thread asks for it
        self.compiled = False
        self._graphs: dict[tuple[int, ...], Graph] = {}  # of pictures of the last size

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        refiner: str | Path | None = None,
        unet: str | Path | None = None,
        vae: str | Path | None = None,
        revision: str | None = None,
        variant: str | None = None,
        offload: Offload = "none",
        max_memory: int | None = None,
        int8: bool = False,
    ) -> Pipeline:
        """Load a model.

        `model` is a single .safetensors file, a diffusers folder, or an id on the hub; a base, an inpainting model or a
        refiner. `refiner` is another model that takes over at the end (SDXL paper, section 2.5). `unet` and `vae`
        replace that part by another file's. `dtype` is that of the weights, None picks bfloat16 where the hardware
        computes it fast, else float32 (float16 if "auto" finds too little memory for that); on a CPU that is slow in it
        the arithmetic is float32, and so is the VAE's for float16, where it could overflow. `revision` and `variant`
        ("fp16") are the hub's; without a variant, the fp16 files are taken where there are any, unless float32 is asked
        for.

        `offload` says what is in memory: "none" keeps all of the model; "text" all but the matrices of the text
        encoders, which are fetched when they are needed (for a GPU); "stage" loads text encoders, UNets and VAE when
        their turn comes and forgets them after it; "block" fetches every layer's weights anew when they are needed,
        which takes least memory and most time; "auto" picks one that fits into the memory that is free, or into
        `max_memory` bytes. `int8` computes the transformer blocks of the UNet in 8 bits, on CPUs that are fast in them:
        about the same picture. Raises `SDXLError`.
        """
        where = choose_device(device)
        kind = choose_dtype(dtype, where)
        variant = variant or (None if dtype is not None and kind is torch.float32 else "fp16")
        fetched = hub.resolve(model, revision, variant, check=check_folder)
        checkpoints = [open_checkpoint(fetched, variant, needs_vae=vae is None)]
        for name, path in ((UNET, unet), (VAE, vae)):
            if path is not None:
                local = hub.resolve(path, None, variant, part=name)
                part = open_part(local, name, checkpoints[0].about.config, variant)
                checkpoints[0] = checkpoints[0].with_part(part)
        if refiner is not None:
            fetched = hub.resolve(refiner, None, variant, check=check_folder)
            checkpoints.append(open_checkpoint(fetched, variant, needs_vae=False))
            _check_refiner(refiner, checkpoints[1].about, checkpoints[0].about)
        loader = Loader(checkpoints, where, kind, int8)
        chosen = choose_offload(offload, loader.bytes(), loader.text_bytes(), where, max_memory, int8)
        if dtype is None and chosen == "block" != offload and kind is torch.float32:
            loader = replace(loader, dtype=torch.float16)  # half the memory, and the arithmetic stays in float32
            chosen = choose_offload(offload, loader.bytes(), loader.text_bytes(), where, max_memory, int8)
        named = {"model": model, "refiner": refiner, "unet": unet, "vae": vae, "revision": revision, "variant": variant}
        source: dict[str, Any] = {name: str(value) for name, value in named.items() if value}
        source |= {"int8": True} if int8 else {}
        experts, vae_part = loader.parts(chosen)
        pipeline = cls(experts, vae_part, source, chosen, max_memory, loader if offload == "auto" else None)
        pipeline._with_less_memory(pipeline.load)
        return pipeline

    @classmethod
    def from_networks(cls, about: Description, unet: UNet, vae: VAEModel, text: Sequence[TextStage]) -> Pipeline:
        """A pipeline of networks that are in memory already, such as those in training."""
        weight = unet.norm_out.weight
        at = Placement(weight.device, weight.dtype, weight.dtype)
        return cls([Expert(about, Part(lambda: unet), Part(lambda: list(text)), at)], Part(lambda: vae))

    def load(self) -> None:
        """Load what is to stay in memory and is not there yet."""
        if self.offload in ("none", "text"):
            for expert in self.experts:
                expert.load()
            self._vae()

    def prepare_for_many(self) -> None:
        """Before a long job: keep all of the model in memory if "auto" may choose and it fits, and encode every text
        once; weights of the text encoders must not be changed after this.
        """
        if self._loader is not None and self.offload == "stage" and sum(self._loader.bytes()) + ROOM < self._room():
            self._rearrange("none")
        self.experts = tuple(replace(expert, memo=TextMemo()) for expert in self.experts)

    def _rearrange(self, offload: str) -> None:
        assert self._loader is not None
        self._forget(*(part for expert in self.experts for part in (expert.unet, expert.text)), self._vae)
        compiled, self.compiled, self.offload = self.compiled, False, offload
        experts, self._vae = self._loader.parts(offload)
        self.experts = tuple(replace(new, memo=old.memo) for new, old in zip(experts, self.experts, strict=True))
        if compiled and offload != "block":
            self.compile()
        self.load()

    def _with_less_memory(self, work: Callable[[], T]) -> T:
        """Do some work, and again with less of the model in memory as long as memory runs out and it may be done so."""
        smaller: str | None = None
        while True:
            try:
                if smaller is not None:
                    self._rearrange(smaller)
                return work()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                shortage = self._shortage(error)
            # here nothing holds what was being computed any more
            self._graphs.clear()
            trim()
            smaller = self._smaller
            if self._loader is None or smaller is None:
                raise shortage
            self._warn_of_less(f"memory ran out with offload {self.offload}", smaller)

    def _warn_of_less(self, why: str, smaller: str) -> None:
        warnings.warn(f"{why}; going on with {smaller}, which takes less and is slower", SDXLWarning, stacklevel=3)

    def _shortage(self, error: Exception) -> OutOfMemoryError:
        """What is said when memory runs out."""
        reason = str(error).strip().splitlines()[0] if str(error) else "no more is given"
        advice = f"offload {self._smaller}, " if self._smaller else ""
        return OutOfMemoryError(
            f"memory ran out with offload {self.offload} ({reason}); try {advice}a smaller size or fewer pictures at "
            "once"
        )

    def compile(self) -> None:
        """Make every picture after the first of its size faster on CUDA: compiled blocks, replayed as a CUDA graph.

        On other devices there is nothing to gain: on a CPU the layers are fused as they are. Raises `ArgumentError`
        where every step reads the weights anew.
        """
        if self.offload == "block":
            raise ArgumentError("a model with offload block cannot be compiled; use none, text or stage")
        if self.device.type == "cuda" and not self.compiled:
            self.compiled = True
            self._vae.apply(compile_blocks)
            for expert in self.experts:
                expert.unet.apply(compile_blocks)

    def _release(self, *parts: Part[Any]) -> None:
        """Give memory back when a part has done its work, if it is to be given back."""
        if self.offload not in ("none", "text"):
            self._forget(*parts)

    def _forget(self, *parts: Part[Any]) -> None:
        self._graphs.clear()  # they hold the UNet
        for part in parts:
            part.release()
        if self.compiled:
            gc.collect()  # compiled methods and their network hold each other
        trim()

    @property
    def about(self) -> Description:
        """Everything about the model but its weights."""
        return self.experts[0].about

    @property
    def unet(self) -> UNet:
        """The model's UNet."""
        return self.experts[0].unet()

    @property
    def text(self) -> list[TextStage]:
        """The model's text encoders with their tokenizers."""
        return self.experts[0].text()

    @property
    def vae(self) -> VAEModel:
        """The autoencoder."""
        return self._vae()

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.experts[0].at.device

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet's weights are in."""
        return self.experts[0].at.dtype

    @_with_request_arguments
    def __call__(
        self, prompt: str | Sequence[str], *, output: Output = "pil", progress: bool = True, **arguments: Any
    ) -> Result:
        """Draw pictures. The arguments are `Request`'s fields: negative_prompt, width, height, steps, seed, ...

        Text to image, with `image` image to image, with `mask` or `outpaint` too inpainting. `prompt` may be a list and
        `seed` too, one per picture; there are prompts x `num_images` pictures, in the order of the prompts. `output` is
        "pil", "tensor" (float32, 0..1) or "latent" (float32, as the UNet sees them). Raises `ArgumentError` before any
        work is done, `NonFiniteError` rather than giving a black picture.
        """
        if output not in ("pil", "tensor", "latent"):
            raise ArgumentError(f"output is {output!r}; it must be pil, tensor or latent")
        plan = self.plan(_request(prompt, arguments))
        if output == "tensor" and len(sizes := {canvas.result_size for canvas in plan.canvases}) > 1:
            raise ArgumentError(f"pictures of different sizes {sorted(sizes)} are no tensor; use output='pil'")
        with self._lock:
            return self._with_less_memory(lambda: self._draw(plan, output, progress))

    def _draw(self, plan: Plan, output: Output, progress: bool) -> Result:
        self._make_room(plan)
        latents = self._drain(plan, progress)
        parameters, seeds = describe(plan, self.source, self.experts[0].at), list(plan.seeds)
        if output == "latent":
            return Result(latents, seeds, parameters)
        pictures = self._finish(plan, latents)
        if output == "tensor":
            return Result(torch.stack(pictures), seeds, parameters)
        return Result([to_pil(picture[None])[0] for picture in pictures], seeds, parameters)

    @_with_request_arguments
    def steps(self, prompt: str | Sequence[str], **arguments: Any) -> Iterator[PipelineStep]:
        """The generator under a call, with the same arguments; `decode` turns any step's latents into pixels."""
        plan = self.plan(_request(prompt, arguments))
        with self._lock:
            self._make_room(plan)
        return self._locked(self._steps(plan))

    def _locked(self, steps: Iterator[PipelineStep]) -> Iterator[PipelineStep]:
        """The same steps, none at the same time as another thread's; `OutOfMemoryError` where torch has other words."""
        while True:
            try:
                with self._lock:
                    step = next(steps, None)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise self._shortage(error) from error
            if step is None:
                return
            yield step

    def plan(self, request: Request) -> Plan:
        """The request with this model's defaults filled in and seeds drawn; errors for what does not fit."""
        return make_plan(request, *(expert.about for expert in self.experts))

    def _drain(self, plan: Plan, progress: bool) -> Tensor:
        from tqdm import tqdm

        latents = torch.empty(0)
        with tqdm(total=plan.steps, disable=not progress, unit="step") as bar:
            for step in self._steps(plan):
                latents = step.latents
                bar.update(step.total > 0)
        return latents

    @torch.no_grad()
    def _steps(self, plan: Plan) -> Iterator[PipelineStep]:
        """The denoising loop: every picture passes through it, whatever the task."""
        channels = self.about.config.vae.latent_channels
        noise = Noise(plan.seeds, (channels, *plan.latent_size), self.device)
        start = self._start(plan, noise)
        x, index = start.x, 0
        if not plan.steps:  # strength 0: the picture as it is
            yield PipelineStep(0, 0, plan.sigmas[0], x, x)
        for number, sigmas in plan.stages():
            for step in self._stage(number, sigmas, x, plan, start, noise):
                x, index = step.x, index + 1
                latents = self._result(x, plan, start) if index == plan.steps else x
                yield PipelineStep(index - 1, plan.steps, step.sigma, latents, step.denoised)

    def _stage(
        self, number: int, sigmas: Sequence[float], x: Tensor, plan: Plan, start: Start, noise: Noise
    ) -> Iterator[Step]:
        """The steps of one expert."""
        try:
            steps = _sampler(plan.request)(self._denoiser(number, plan, start), x, sigmas, noise)
            for left, step in zip(range(len(sigmas) - 2, -1, -1), steps, strict=True):
                if not left:  # looked at once, since it makes the host wait for the GPU
                    self._check_finite(step.x, f"the UNet of the {self.experts[number].about.config.kind} model")
                yield step
        finally:
            self._release(self.experts[number].unet, self.experts[number].text)

    def _denoiser(self, number: int, plan: Plan, start: Start) -> Denoiser:
        """What an expert makes of x, with the picture's known part kept."""
        expert, request = self.experts[number], plan.request
        positive, negative = expert.condition(plan)
        self._release(expert.text)
        for x in (positive.context, positive.vector, negative.context, negative.vector):
            self._check_finite(x, f"a text encoder of the {expert.about.config.kind} model")
        unet = expert.unet()
        interval = request.guidance_interval or (0.0, math.inf)
        guidance = Guidance(request.guidance_scale, request.guidance_rescale, interval)
        told = tell(unet, [negative, positive] if guidance.scale > 1 else [positive], plan.schedule.timesteps)
        network = self._network(number, told.last(len(plan.seeds)), start.x.shape)
        pair = self._network(number, told, start.x.shape)
        inpaints = start.channels is not None and unet.config.in_channels > start.x.shape[1]
        if inpaints:
            network, pair = (with_channels(each, cast(Tensor, start.channels)) for each in (network, pair))
        prediction = expert.about.schedule.prediction
        denoise = make_denoiser(network, pair, plan.schedule, prediction, guidance, expert.at.arithmetic)
        return keep_known(denoise, start.known) if start.known is not None and not inpaints else denoise

    def _network(self, number: int, told: Told, shape: Sequence[int]) -> Network:
        """A told UNet as it is or, if it is compiled, as the CUDA graph of its shape, which outlives the call."""
        if not self.compiled:
            return told
        key = (*shape, number, *told.rows)
        self._graphs = {k: graph for k, graph in self._graphs.items() if k[: len(shape)] == tuple(shape)}
        return partial(self._graphs.setdefault(key, Graph()).run, told)

    def _result(self, x: Tensor, plan: Plan, start: Start) -> Tensor:
        """The last x as clean latents."""
        latents = x * plan.schedule.end_scale
        return latents if start.known is None else start.known.output(latents, plan.sigmas[-1])

    def _start(self, plan: Plan, noise: Noise) -> Start:
        """The first x. Each picture's generator draws, as in diffusers: the posterior of the picture, the start noise,
        the posterior of the masked picture, and after that what the steps draw.
        """
        request, inpaints = plan.request, self.about.config.kind == "inpainting"
        from_noise = request.image is None or (inpaints and plan.is_full)
        z = None if from_noise else self._source_latents(plan, noise)
        if not plan.steps:
            assert z is not None
            return Start(z)
        first = noise() if request.start_noise is None else request.start_noise.to(self.device, torch.float32)
        x = first * plan.schedule.start_scale if z is None else z + first * plan.sigmas[0]
        if not request.repaints:
            return Start(x)
        mask, channels = self._mask(plan), None
        if inpaints:
            hidden = self._encode([canvas.hidden for canvas in plan.canvases], noise)
            channels = torch.cat([(mask >= 0.5).float(), hidden], dim=1)
            if len(self.experts) == 1:
                return Start(x, channels=channels)
        elif plan.canvases:
            noise()  # drawn for a 4-channel model too, which has no use for it
        z = self._source_latents(plan, noise) if z is None else z  # not for the 9 channels, but for the refiner's 4
        known = Known(z, first, mask, plan.sigmas, plan.is_full)
        return Start(x if inpaints else known.start(plan.schedule.start_scale), known, channels)

    def _source_latents(self, plan: Plan, noise: Noise) -> Tensor:
        """The latents of each picture's source."""
        latents = plan.request.image_latents
        if latents is None:
            return self._encode([canvas.pixels for canvas in plan.canvases], noise)
        count = len(plan.seeds)
        return latents.to(self.device, torch.float32).repeat_interleave(count // len(latents), dim=0)

    def _mask(self, plan: Plan) -> Tensor:
        """The masks (B, 1, h, w) of all pictures, of every latent that of its pixel in the upper left corner."""
        count, factor = len(plan.seeds), self.about.config.vae.factor
        if plan.canvases:
            masks = [canvas.strengths for canvas in plan.canvases]
        else:
            masks = [to_tensor(mask) for mask in spread(plan.request.masks or (), count)]
        return torch.stack(masks)[:, :, ::factor, ::factor].to(self.device)

    def _encode(self, pictures: Sequence[Tensor], noise: Noise) -> Tensor:
        """A sample of the posterior of each picture (3, H, W); one that several share is encoded once."""
        draws = noise()
        latents = torch.empty_like(draws)
        try:
            for picture in {id(picture): picture for picture in pictures}.values():
                rows = [i for i, each in enumerate(pictures) if each is picture]
                latents[rows] = self._encode_pixels(picture[None], draws[rows])
        finally:
            self._release(self._vae)
        return latents

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to scaled latents (B, 4, h, w), float32: samples of their posteriors with
        standard normal `noise` of that shape, or several samples of one picture; without noise the means. H and W are
        multiples of 8. Raises `ArgumentError`.
        """
        check_pixels(pixels, self.about.config.vae)
        with self._lock:
            try:
                return self._with_less_memory(lambda: self._encode_pixels(pixels, noise))
            finally:
                self._release(self._vae)

    @torch.no_grad()
    def _encode_pixels(self, pixels: Tensor, noise: Tensor | None) -> Tensor:
        vae = self.vae
        weight = vae.decoder.norm_out.weight
        x = (pixels * 2 - 1).to(weight.device, weight.dtype)
        latents = self._in_room(
            x.shape[2:], len(x), lambda: vae.encode(x, noise), lambda: encode_strips(vae, x, noise)
        ).float()
        self._check_finite(latents, "the VAE's encoder")
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, 4, h, w) to pictures (B, 3, H, W) in 0..1, float32, one at a time to save memory. Raises
        `ArgumentError`.
        """
        check_latents(latents, "latents", self.about.config.vae.latent_channels)
        with self._lock:
            return self._with_less_memory(lambda: self._decode(latents))

    def _decode(self, latents: Tensor) -> Tensor:
        try:
            return self._decode_latents(latents)
        finally:
            self._release(self._vae)

    @torch.no_grad()
    def _decode_latents(self, latents: Tensor) -> Tensor:
        vae = self.vae
        weight = vae.decoder.norm_out.weight
        factor = self.about.config.vae.factor
        size = latents.shape[2] * factor, latents.shape[3] * factor
        z = latents.to(weight.device, weight.dtype)
        pixels = self._in_room(
            size,
            1,
            lambda: torch.cat([vae.decode(each[None]) for each in z]),
            lambda: torch.cat([decode_strips(vae, each[None]) for each in z]),
        ).float()
        self._check_finite(pixels, "the VAE's decoder")
        return (pixels / 2 + 0.5).clamp(0, 1)

    def _check_finite(self, x: Tensor, who: str) -> None:
        """Raise `NonFiniteError` rather than go on to a black picture."""
        if bool(x.isfinite().all()):
            return
        at = self.experts[0].at
        exact = at.dtype == at.arithmetic == torch.float32
        advice = "its weights are damaged, fetch the model again" if exact else "use dtype float32"
        weights, arithmetic = (str(dtype).removeprefix("torch.") for dtype in (at.dtype, at.arithmetic))
        raise NonFiniteError(
            f"{who} gave NaN or infinity with weights in {weights} and arithmetic in {arithmetic}; {advice}"
        )

    def _in_room(
        self, size: Sequence[int], count: int, whole: Callable[[], Tensor], strips: Callable[[], Tensor]
    ) -> Tensor:
        """`whole()` if there is memory for the VAE to work on `count` pictures of (height, width) at once so, else
        `strips()`, which is the same.
        """
        wanted = vae_bytes(self.about.config.vae, size, self.experts[0].at, compiled=self.compiled)
        if self.offload != "block" and count * wanted <= self._room():
            try:
                return whole()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            trim()  # out here nothing holds what was being computed any more
        return strips()

    def _room(self) -> float:
        """Bytes that may still be taken."""
        if self.max_memory is None:
            return available(self.device)
        trim()  # what is only kept for later is not taken
        return min(available(self.device), self.max_memory - used(self.device))

    def _make_room(self, plan: Plan) -> None:
        """Raise `OutOfMemoryError` before any work for what cannot fit, even with less of the model in memory."""
        while True:
            to_load = max(self._loader.bytes()) if self._loader is not None and self.offload == "stage" else 0
            try:
                configs = [expert.about.config for expert in self.experts]
                room = self._room() - to_load
                return check_room(plan, configs, self.experts[0].at, room, self._smaller, self.compiled)
            except OutOfMemoryError as error:
                if self._graphs:  # whose memory is for the same work
                    self._forget()
                    continue
                if self._loader is None or self._smaller is None:
                    raise
                self._warn_of_less(str(error).split(";")[0], self._smaller)
            self._rearrange(self._smaller)

    @property
    def _smaller(self) -> str | None:
        """What would take less memory."""
        return next_smaller(self.offload, self.device, bool(self.source.get("int8")))

    def _finish(self, plan: Plan, latents: Tensor) -> list[Tensor]:
        """The pictures (3, H, W) in 0..1, with what a mask keeps put back."""
        pixels = self._decode(latents)
        return (
            [canvas.paste(x) for canvas, x in zip(plan.canvases, pixels, strict=True)] if plan.canvases else [*pixels]
        )


def _check_refiner(name: str | Path, refiner: Description, base: Description) -> None:
    if refiner.config.kind != "refiner":
        raise ArgumentError(f"{name} is SDXL {refiner.config.kind}, not a refiner; give it as the model instead")
    if base.config.kind == "refiner":
        raise ArgumentError("the model is a refiner itself; give a base model, and the refiner as refiner=")
    if refiner.config.vae.latent_channels != base.config.vae.latent_channels:
        raise ArgumentError(f"{name} works on other latents than the model; it is not its refiner, give another")


def _request(prompt: str | Sequence[str], arguments: dict[str, Any]) -> Request:
    known = {each.name for each in fields(Request)}
    if unknown := [name for name in arguments if name not in known]:
        told = advice(unknown[0], known | {"output", "progress"})
        raise ArgumentError(f"{unknown[0]} is not an argument; {told}")
    return Request(prompt, **arguments)


def _sampler(request: Request) -> Sampler:
    sampler = SAMPLERS[str(request.sampler)]
    return partial(cast(Any, sampler), eta=request.eta) if request.sampler == "ddim" else sampler
