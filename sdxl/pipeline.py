"""The pipeline: a model in memory, and the one loop that draws with it."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from . import hub
from .checkpoint import Checkpoint, Description, open_checkpoint, open_part
from .conditioning import TextStage, embed_sizes, encode_text
from .denoise import Conditioning, Guidance, make_denoiser
from .errors import ArgumentError, NonFiniteError
from .keymap import TEXT, TEXT_2, UNET, VAE
from .request import Request, Size
from .samplers import SAMPLERS, Sampler
from .schedule import Schedule, make_schedule
from .tokenizer import Tokenizer
from .unet import UNet
from .vae import VAE as VAEModel
from .version import __version__

if TYPE_CHECKING:
    from PIL.Image import Image

Output = Literal["pil", "tensor", "latent"]
Method = TypeVar("Method", bound=Callable[..., Any])
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MOST_PIXELS = 2**26  # a side product far above what SDXL can draw, against a typing error that fills the memory


@dataclass(frozen=True)
class PipelineStep:
    """The state after step `index` of `total`: `latents` at noise level `sigma`, and the guess of the clean ones.

    Both are (B, 4, H/8, W/8), float32; after the last step `latents` are the result.
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


def default_device() -> torch.device:
    """CUDA, Apple's GPU, or the CPU: the first that is there."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware computes it fast, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.12 and older cannot tell
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
    return torch.float32


def _device(device: str | torch.device | None) -> torch.device:
    try:
        chosen = default_device() if device is None else torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return chosen


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    chosen = default_dtype(device) if dtype is None else DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen not in DTYPES.values():
        raise ArgumentError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    return cast(torch.dtype, chosen)


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


class Pipeline:
    """A model in memory. Call it with a prompt; `steps` is the generator underneath.

    Shares nothing between calls: the same arguments give the same picture.
    """

    def __init__(
        self, about: Description, unet: UNet, vae: VAEModel, text: Sequence[TextStage], source: dict[str, str]
    ) -> None:
        self.about, self.unet, self.vae, self.text, self.source = about, unet, vae, list(text), source

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        unet: str | Path | None = None,
        vae: str | Path | None = None,
        revision: str | None = None,
        variant: str | None = None,
    ) -> Pipeline:
        """Load a model.

        `model` is a single .safetensors file, a diffusers folder, or an id on the hub. `unet` and `vae` replace that
        part by another file's. `dtype` None picks bfloat16 where the hardware computes it fast, else float32; a float16
        model's VAE runs in float32, where it cannot overflow. `revision` and `variant` ("fp16") are the hub's; without
        a variant, half precision takes the fp16 files where there are any. Raises `SDXLError`.
        """
        where = _device(device)
        kind = _dtype(dtype, where)
        variant = variant or (None if kind is torch.float32 else "fp16")
        checkpoint = open_checkpoint(hub.resolve(model, revision, variant), variant)
        for name, path in ((UNET, unet), (VAE, vae)):
            if path is not None:
                local = hub.resolve(path, None, variant, part=name)
                checkpoint = checkpoint.with_part(open_part(local, name, checkpoint.about.config, variant))
        named = {"model": model, "unet": unet, "vae": vae, "revision": revision, "variant": variant}
        return cls._load(checkpoint, kind, where, {name: str(value) for name, value in named.items() if value})

    @classmethod
    def _load(
        cls, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, source: dict[str, str]
    ) -> Pipeline:
        parts, about = checkpoint.components, checkpoint.about
        stages = []
        for name in (TEXT, TEXT_2):
            if name in parts:
                encoder: Any = parts[name].load(dtype, device)
                stages.append(TextStage(Tokenizer(about.tokenizers[name], encoder.config.positions), encoder))
        vae_dtype = torch.float32 if dtype is torch.float16 else dtype  # the stock VAE overflows in float16
        return cls(
            about,
            cast(UNet, parts[UNET].load(dtype, device)),
            cast(VAEModel, parts[VAE].load(vae_dtype, device)),
            stages,
            source,
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in."""
        return self.unet.conv_in.weight.dtype

    @_with_request_arguments
    def __call__(
        self, prompt: str | Sequence[str], *, output: Output = "pil", progress: bool = True, **arguments: Any
    ) -> Result:
        """Draw pictures. The arguments are `Request`'s fields: negative_prompt, width, height, steps, seed, ...

        `prompt` may be a list and `seed` too, one per picture; there are prompts x `num_images` pictures, in the order
        of the prompts. `output` is "pil", "tensor" (float32, 0..1) or "latent" (float32, as the UNet sees them).
        Raises `ArgumentError` before any work is done, `NonFiniteError` rather than giving a black picture.
        """
        if output not in ("pil", "tensor", "latent"):
            raise ArgumentError(f"output is {output!r}; it must be pil, tensor or latent")
        request = self.resolve(_request(prompt, arguments))
        latents = self._drain(request, progress)
        parameters = self._parameters(request)
        seeds = list(cast("Sequence[int]", request.seed))
        if output == "latent":
            return Result(latents, seeds, parameters)
        pixels = self.decode(latents)
        if output == "tensor":
            return Result(pixels, seeds, parameters)
        from .image import to_pil

        return Result(to_pil(pixels), seeds, parameters)

    @_with_request_arguments
    def steps(self, prompt: str | Sequence[str], **arguments: Any) -> Iterator[PipelineStep]:
        """The generator under a call, with the same arguments; `decode` turns any step's latents into pixels."""
        return self._steps(self.resolve(_request(prompt, arguments)))

    def _drain(self, request: Request, progress: bool) -> Tensor:
        from tqdm import tqdm

        latents = torch.empty(0)
        with tqdm(total=request.steps, disable=not progress, unit="step") as bar:
            for step in self._steps(request):
                latents = step.latents
                bar.update()
        return latents

    @torch.no_grad()
    def _steps(self, request: Request) -> Iterator[PipelineStep]:
        """The denoising loop: every picture passes through it."""
        assert request.height and request.width and request.sampler
        factor, channels = self.about.config.vae.factor, self.about.config.vae.latent_channels
        seeds = cast("Sequence[int]", request.seed)
        noise = Noise(seeds, (channels, request.height // factor, request.width // factor), self.device)
        schedule = self._schedule(request)
        positive, negative = self._conditioning(request)
        guidance = Guidance(request.guidance_scale, request.guidance_rescale)
        denoise = make_denoiser(self.unet, schedule, self.about.schedule.prediction, guidance, positive, negative)
        start = noise() if request.latents is None else request.latents.to(self.device, torch.float32)
        sampler = _sampler(request)
        for index, step in enumerate(sampler(denoise, start * schedule.start_scale, schedule.sigmas, noise)):
            last = index == request.steps - 1
            latents = step.x * schedule.end_scale if last else step.x
            if last and not bool(latents.isfinite().all()):
                raise NonFiniteError(
                    f"the UNet gave NaN or infinity in {self.dtype}; use dtype bfloat16 or float32, "
                    "or check that the checkpoint is sound"
                )
            yield PipelineStep(index, request.steps, step.sigma, latents, step.denoised)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, 4, h, w) to pictures (B, 3, H, W) in 0..1, float32, one at a time to save memory."""
        weight = self.vae.post_quant_conv.weight
        pixels = torch.cat([self.vae.decode(z[None].to(weight.device, weight.dtype)).float() for z in latents])
        if not bool(pixels.isfinite().all()):
            raise NonFiniteError(f"the VAE gave NaN or infinity in {weight.dtype}; use dtype float32 or another VAE")
        return (pixels / 2 + 0.5).clamp(0, 1)

    def resolve(self, request: Request) -> Request:
        """The same request with this model's defaults filled in and seeds drawn; errors for what does not fit."""
        config, factor = self.about.config, self.about.config.vae.factor
        if config.kind != "base":
            raise ArgumentError(f"this model is SDXL {config.kind}, which text to image cannot use; load a base model")
        height, width = config.native_size
        if request.latents is not None:
            height, width = (side * factor for side in request.latents.shape[-2:])
        height, width = request.height or height, request.width or width
        for name, side in (("width", width), ("height", height)):
            if side % factor:
                raise ArgumentError(
                    f"{name} is {side}; it must be a multiple of {factor}: try {max(side // factor, 1) * factor}"
                )
        if height * width > MOST_PIXELS:
            raise ArgumentError(f"{width} x {height} is more than {MOST_PIXELS} pixels; SDXL draws about 1024 x 1024")
        sampler = request.sampler or self.about.schedule.sampler
        if request.eta and sampler != "ddim":
            raise ArgumentError(f"eta is {request.eta} but the sampler is {sampler}; eta belongs to ddim")
        count = len(request.prompts) * request.num_images
        if request.latents is not None:
            shape = (count, config.vae.latent_channels, height // factor, width // factor)
            if tuple(request.latents.shape) != shape:
                raise ArgumentError(f"latents have shape {list(request.latents.shape)}; they must be {list(shape)}")
        size: Size = (height, width)
        resolved = replace(
            request,
            height=height,
            width=width,
            sampler=sampler,
            schedule=request.schedule or self.about.schedule.spacing,
            seed=_seeds(request.seed, count),
            original_size=request.original_size or size,
            target_size=request.target_size or size,
        )
        self._schedule(resolved)  # the number of steps may not fit the schedule
        layers = min(stage.encoder.config.layers for stage in self.text)
        if (request.clip_skip or 0) >= layers:
            raise ArgumentError(
                f"clip_skip is {request.clip_skip}; with text encoders of {layers} layers it is at most {layers - 1}"
            )
        return resolved

    def _schedule(self, request: Request) -> Schedule:
        assert request.schedule and request.sampler
        return make_schedule(self.about.schedule, request.schedule, request.steps, request.sampler)

    def _conditioning(self, request: Request) -> tuple[Conditioning, Conditioning]:
        """Positive and negative conditioning of all B pictures, on the device in the UNet's dtype."""
        prompts, skip = request.prompts, request.clip_skip or 0
        context, pooled = encode_text(self.text, prompts, request.texts("prompt_2") or prompts, skip)
        negatives = request.texts("negative_prompt")
        if negatives is None and self.about.zero_negative:
            bad_context, bad_pooled = torch.zeros_like(context), torch.zeros_like(pooled)
        elif request.guidance_scale > 1:
            negatives = negatives if negatives is not None else [""] * len(prompts)
            second = request.texts("negative_prompt_2")
            bad_context, bad_pooled = encode_text(
                self.text, negatives, second if second is not None else negatives, skip
            )
        else:
            bad_context, bad_pooled = context, pooled  # without guidance nobody looks at them
        original, crop, target = request.original_size, request.crop_top_left, request.target_size
        assert original and target
        sizes = (*original, *crop, *target)
        bad_sizes = (
            *(request.negative_original_size or original),
            *(request.negative_crop_top_left or crop),
            *(request.negative_target_size or target),
        )
        return (
            self._condition(context, pooled, sizes, request.num_images),
            self._condition(bad_context, bad_pooled, bad_sizes, request.num_images),
        )

    def _condition(self, context: Tensor, pooled: Tensor, sizes: Sequence[float], num_images: int) -> Conditioning:
        embedded = embed_sizes(sizes, self.about.config.unet.size_dim).to(pooled.device).expand(len(pooled), -1)
        vector = torch.cat([pooled, embedded], dim=1)
        repeated = (part.repeat_interleave(num_images, dim=0) for part in (context, vector))
        return Conditioning(*repeated).to(self.device, self.dtype)

    def _parameters(self, request: Request) -> list[dict[str, Any]]:
        """What each picture's PNG records."""
        common = {each.name: getattr(request, each.name) for each in fields(Request) if each.name != "latents"}
        model = {**self.source, "dtype": str(self.dtype).removeprefix("torch.")}
        given = {"latents": "given by the caller, not recorded"} if request.latents is not None else {}
        pictures = []
        for i, seed in enumerate(cast("Sequence[int]", request.seed)):
            own: dict[str, Any] = {"seed": seed, "num_images": 1}
            for name in ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2"):
                texts = request.texts(name)
                own[name] = None if texts is None else texts[i // request.num_images]
            version = f"sdxl {__version__}"
            pictures.append(
                {"version": version, "torch": torch.__version__, "model": model, "request": common | own | given}
            )
        return pictures


def _request(prompt: str | Sequence[str], arguments: dict[str, Any]) -> Request:
    known = {each.name for each in fields(Request)}
    if unknown := [name for name in arguments if name not in known]:
        raise ArgumentError(f"{unknown[0]} is not an argument; there are {', '.join(sorted(known))}")
    return Request(prompt, **arguments)


def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    if isinstance(seed, Sequence):
        if len(seed) != count:
            raise ArgumentError(
                f"seed has {len(seed)} entries for {count} pictures; give one for each, or a single one"
            )
        return list(seed)
    first = secrets.randbelow(2**32) if seed is None else seed
    return [first + i for i in range(count)]


def _sampler(request: Request) -> Sampler:
    sampler = SAMPLERS[str(request.sampler)]
    return partial(cast(Any, sampler), eta=request.eta) if request.sampler == "ddim" else sampler
