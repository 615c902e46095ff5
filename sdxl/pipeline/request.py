"""One statement of what to generate: `Pipeline`'s keyword arguments, the command line's flags and a PNG's record are
views of this dataclass. Imports no torch, and opens no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..adapters.control import Control, read_controls
from ..adapters.lora import LoRA, read_loras
from ..adapters.reference import Reference, read_references
from ..errors import ArgumentError, brief
from ..images.upscalers import UPSCALERS
from ..sampling.guiders import NamedGuider, read_guider
from ..sampling.names import read_sampler, read_schedule
from ..sampling.presets import NO_PRESET, PRESETS
from ..sampling.samplers import SAMPLERS
from ..sampling.schedules import SCHEDULES
from ..sampling.settings import SETTINGS, Value, plain
from ..text.grammars import EMPHASES, LONG_PROMPTS, MOST_LETTERS, SYNTAXES
from .conventions import Conventions
from .hires import Hires, read_hires
from .option import option
from .profiles import PROFILES, Compat, conventions_of, read_compat

if TYPE_CHECKING:
    from torch import Tensor

    from ..images.image import Picture

MOST_IMAGES, _MOST = 2**16, 10**6  # images, and any whole number but a seed; against typing errors
_MOST_LEVELS = 10_000
MOST_SEED = 2**64 - 1
_MOST_GUIDANCE = 1000
T = TypeVar("T")
Size = tuple[int, int]
Borders = tuple[int, int, int, int]

# names of arguments with their least and their highest value
_WHOLE = {"steps": 1, "num_images": 1, "feather": 0, "width": 1, "height": 1, "clip_skip": 0, "mask_padding": 0}
_NUMBERS = {
    "guidance_rescale": 1,
    "eta": 1,
    "strength": 1,
    "variation_strength": 1,
    "refine_at": 1,
    "aesthetic_score": 100,
    "negative_aesthetic_score": 100,
}
_OPTIONAL = (
    "steps",
    "guidance_rescale",
    "eta",
    "width",
    "height",
    "clip_skip",
    "mask_padding",
    "feather",
    "strength",
    "variation_strength",
    "refine_at",
)
TEXTS = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")
SEEDS = ("seed", "variation_seed")
SOURCES = ("image", "mask", "latents")
LEVELS = ("sigmas", "timesteps")
WITH_IMAGE = ("strength", "mask_padding", "feather", "outpaint")


def _size(help: str) -> Any:
    return option(help, type=int, metavar="A,B", example="1024,1024")


@dataclass(frozen=True)
class Request:
    """What to generate: one image or several. All sizes are (height, width), crops (top, left), in pixels.

    `image` is a PIL image, a path, a tensor (B, 3, H, W) in 0..1 or already scaled latents (B, 4, h, w); `mask`
    likewise, (B, 1, H, W) as a tensor. Latents may be a path too, to a .safetensors file with one tensor. Files are
    opened by `open_sources`, before a model is loaded. Raises `ArgumentError`.
    """

    prompt: str | Sequence[str] = option(
        "what to generate; give it several times for several images", default=MISSING, repeated=True
    )
    negative_prompt: str | Sequence[str] | None = option(
        "what to avoid (default: zeros, as SDXL was trained)", repeated=True
    )
    prompt_2: str | Sequence[str] | None = option("another prompt for the second text encoder", repeated=True)
    negative_prompt_2: str | Sequence[str] | None = option(
        "another negative prompt for the second text encoder", repeated=True
    )
    prompt_syntax: str = option(
        f"how prompts are read: {', '.join(SYNTAXES)}; plain: every character is text (default: that of compat, "
        "else plain)",
        choices=SYNTAXES,
    )
    emphasis: str | None = option(
        f"how weights in prompts act: {', '.join(EMPHASES)} (default: the syntax's own)", choices=EMPHASES
    )
    long_prompt: str = option(
        "a prompt of more than 75 tokens: chunk encodes it in pieces, truncate cuts it off (default: that of compat, "
        "else chunk)",
        choices=LONG_PROMPTS,
    )
    width: int | None = option(
        "in pixels, a multiple of 8 (default: the image's, else the model's native size)", type=int
    )
    height: int | None = option(
        "in pixels, a multiple of 8 (default: the image's, else the model's native size)", type=int
    )
    loras: Sequence[LoRA | str | Path | tuple[str | Path, float] | Mapping[str, Any]] | None = option(
        "FILE[,weight=0.8][,text_weight=0.5]: a LoRA: a file, a name in --lora-dir, or owner/name of the hub",
        type=LoRA,
        metavar="FILE",
        repeated=True,
        flag="lora",
    )
    control: Sequence[Control | Mapping[str, Any]] | Control | None = option(
        "NET=IMAGE[,scale=1][,start=0][,end=1][,type=canny][,preprocess=canny][,guess=true]: an image that steers by a "
        "ControlNet, T2I-Adapter or ControlNet-LLLite: a file, a folder, a name in --control-dir, or owner/name of the "
        "hub",
        type=Control,
        metavar="NET=IMAGE",
        repeated=True,
    )
    reference: Sequence[Reference | Mapping[str, Any]] | Reference | None = option(
        "ADAPTER=IMAGE[,scale=0.6][,only=style+layout][,mask=FILE][,start=0][,end=1][,image=FILE][,encoder=FILE]: an "
        "IP-Adapter shows an image to the model: a file, a name in --control-dir, or owner/name/file of the hub; the "
        "image encoder that it needs is found beside it, or on the hub",
        type=Reference,
        metavar="ADAPTER=IMAGE",
        repeated=True,
    )
    preset: str | None = option(
        f"what is left open is taken from: none, {', '.join(PRESETS)} (default: the one that the model's or a LoRA's "
        "files show)",
        metavar="NAME",
    )
    compat: Compat = option(
        f"the conventions of another tool, for what is left open: {', '.join(PROFILES)}; members of Conventions may "
        "follow, as in comfyui,step_noise=cpu (default: ours)",
        metavar="NAME",
    )
    steps: int | None = option("number of sampler steps (default: the preset's, else 30)", type=int)
    guidance_scale: float | Sequence[float] | None = option(
        "how strongly to follow the prompt (CFG); 1 or less turns it off; a number, or one for each step (default: the "
        "preset's, else 5)",
        type=float,
        metavar="N[,N,...]",
        example="7,5,3...",
    )
    guidance_rescale: float | None = option(
        "0 to 1, against overexposure (phi in arXiv 2305.08891) (default: the preset's, else 0)", type=float
    )
    guider: NamedGuider | str | Mapping[str, Any] | None = option(
        "apg[,eta=0][,norm_threshold=15][,momentum=-0.5]: CFG that oversaturates less (APG); "
        "pag[,scale=3][,layers=mid]: also away from a prediction with perturbed attention (PAG), a pass more",
        metavar="NAME[,VALUE]",
    )
    guidance_interval: tuple[float, float] | None = option(
        "LOW,HIGH sigmas between which guidance acts; other steps take half the time (default: everywhere)",
        type=float,
        metavar="LOW,HIGH",
        example="0.3,5.5",
    )
    sampler: str | None = option(f"{', '.join(sorted(SAMPLERS))} (default: the model's)")
    schedule: str | None = option(f"{', '.join(SCHEDULES)} (default: the model's, mostly leading)")
    eta: float | None = option(
        "0 to 1, the share of noise that is drawn again at each step (default: the sampler's; ddim 0, ancestral 1)",
        type=float,
    )
    sampler_options: Mapping[str, Value] | None = option(
        "an option of the sampler or the schedule: "
        + "; ".join(f"{name} ({setting.help})" for name, setting in SETTINGS.items() if name != "eta"),
        type=dict,
        metavar="NAME=VALUE",
        repeated=True,
        flag="sampler-option",
    )
    sigmas: Sequence[float] | None = option(
        "the noise levels to visit, in place of steps and schedule: falling, with the last one, mostly 0",
        type=float,
        metavar="S,S,...",
        example="14.6,7.1,2.8,0...",
    )
    timesteps: Sequence[float] | None = option(
        "the timesteps at which the steps begin, in place of steps and schedule: falling",
        type=float,
        metavar="T,T,...",
        example="999,749,499,249...",
    )
    seed: int | Sequence[int] | None = option(
        "seed of the first image, the next takes seed + 1 (default: random)", type=int, repeated=True
    )
    variation_seed: int | Sequence[int] | None = option(
        "seed of another noise, towards which that of the first image is varied; the next image takes the next number "
        "(default: random)",
        type=int,
        repeated=True,
    )
    variation_strength: float | None = option(
        "0 to 1, how far; above 0 all images have one seed (default: 0)", type=float
    )
    num_images: int = option("images per prompt", 1, type=int)
    clip_skip: int | None = option("text encoder layers to skip at the end, beyond SDXL's one", type=int)
    original_size: Size | None = _size(
        "HEIGHT,WIDTH of the image before cropping, for SDXL's size conditioning (default: the size)"
    )
    crop_top_left: Size | None = _size(
        "TOP,LEFT crop coordinates for SDXL's size conditioning (default: 0,0; with --mask-padding the real position)"
    )
    target_size: Size | None = _size("HEIGHT,WIDTH of the result, for SDXL's size conditioning (default: the size)")
    negative_original_size: Size | None = _size("the same for the negative prompt (default: original_size)")
    negative_crop_top_left: Size | None = _size("the same for the negative prompt (default: crop_top_left)")
    negative_target_size: Size | None = _size("the same for the negative prompt (default: target_size)")
    latents: Tensor | str | Path | None = option(
        "start noise of variance 1: a .safetensors file with one tensor", type=Path
    )
    image: Picture | Sequence[Picture] | Tensor | None = option(
        "an image to start from, or latents in a .safetensors file; several, one for each prompt",
        type=Path,
        repeated=True,
    )
    mask: Picture | Sequence[Picture] | Tensor | None = option(
        "the part of it to repaint: white is repainted, grey in a part of the steps", type=Path, repeated=True
    )
    strength: float | None = option("0 to 1, how far to go from the image (default: 0.3, with a mask 1.0)", type=float)
    mask_padding: int | None = option(
        "work on the box around the mask, enlarged by so many pixels, at the full size, and paste it back", type=int
    )
    feather: int | None = option(
        "pixels from the mask's edge inwards over which the old image fades (default: 0)", type=int
    )
    outpaint: Borders | None = option(
        "LEFT,TOP,RIGHT,BOTTOM pixels to add around the image", type=int, metavar="L,T,R,B", example="128,0,128,0"
    )
    hires: Hires | Mapping[str, Any] | None = option(
        "scale=2[,upscaler=latent][,steps=15][,strength=0.7]: enlarge the image, and generate again from there (hires "
        "fix); size=WxH in place of scale; also prompt, negative_prompt, sampler, schedule; upscalers: "
        + ", ".join(UPSCALERS),
        type=Hires,
        metavar="NAME=VALUE,...",
    )
    refine_at: float | None = option(
        "the part of the noise schedule after which the refiner takes over (default: 0.8)", type=float
    )
    aesthetic_score: float = option("the refiner's conditioning on quality, about 2 to 7", 6.0, type=float)
    negative_aesthetic_score: float = option("the same for the negative prompt", 2.5, type=float)

    def __post_init__(self) -> None:
        for name in (each.name for each in fields(self) if each.name not in SOURCES):
            if hasattr(value := getattr(self, name), "tolist"):  # an array or a tensor of numbers
                object.__setattr__(self, name, value.tolist())
        object.__setattr__(self, "compat", read_compat(self.compat))
        for name in ("prompt_syntax", "long_prompt"):  # None stands for the conventions', and is replaced here
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(self.conventions, name))
        for name in TEXTS:
            self._check_text(name)
        # numpy's numbers, which JSON does not know, become Python's; lists, from JSON, become tuples
        plain = self._numbers() | self._tuples() | {"guidance_scale": self._guidance_scale()}
        plain |= {name: self._seed(name) for name in SEEDS}
        plain |= {} if self.guider is None else {"guider": read_guider(self.guider)}
        plain |= {name: list(text) for name in TEXTS if not isinstance(text := getattr(self, name), (str, type(None)))}
        plain |= {} if self.hires is None else {"hires": read_hires(self.hires)}
        plain |= {} if self.loras is None else {"loras": read_loras(self.loras)}
        plain |= {} if self.control is None else {"control": read_controls(self.control) or None}
        plain |= {} if self.reference is None else {"reference": read_references(self.reference) or None}
        self._check_names()
        plain |= self._sampling()
        self._check_sources()
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def _numbers(self) -> dict[str, Any]:
        """The single numbers, checked."""
        checked: dict[str, Any] = {}
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if not _is_whole(value, least):
                raise ArgumentError(f"{name} is {brief(value)}; it must be a whole number from {least} to {_MOST}")
            checked[name] = int(value)
        if len(self.prompts) * checked["num_images"] > MOST_IMAGES:
            raise ArgumentError(
                f"num_images is {self.num_images} for {len(self.prompts)} prompts; at most {MOST_IMAGES} images are "
                "generated in one call, call again for more"
            )
        for name, most in _NUMBERS.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if not _is_number(value, most):
                raise ArgumentError(f"{name} is {brief(value)}; it must be a number from 0 to {most}")
            checked[name] = _plain(value)
        return checked

    def _tuples(self) -> dict[str, Any]:
        """The pairs and quadruples of numbers, checked."""
        checked: dict[str, Any] = {}
        for name in (each.name for each in fields(self) if each.name.endswith(("_size", "_top_left"))):
            least = 0 if name.endswith("top_left") else 1
            checked[name] = self._several(name, 2, least, "(height, width)")
        checked["outpaint"] = self._several("outpaint", 4, 0, "(left, top, right, bottom)")
        interval = self.guidance_interval
        if interval is not None:
            if not _is_list(interval, 2, lambda each: _is_number(each, _MOST)) or interval[0] > interval[1]:
                raise ArgumentError(
                    f"guidance_interval is {brief(interval)}; it must be two sigmas from 0 to {_MOST}, (low, high)"
                )
            checked["guidance_interval"] = tuple(map(_plain, interval))
        return checked

    def _several(self, name: str, count: int, least: int, order: str) -> tuple[int, ...] | None:
        value = getattr(self, name)
        if value is None:
            return None
        if not _is_list(value, count, lambda each: _is_whole(each, least)):
            number = {2: "two", 4: "four"}[count]
            raise ArgumentError(
                f"{name} is {brief(value)}; it must be {number} whole numbers of at least {least}, {order}"
            )
        return tuple(map(int, value))

    def _guidance_scale(self) -> float | tuple[float, ...] | None:
        scale: Any = self.guidance_scale
        several = isinstance(scale, Sequence) and not isinstance(scale, str)
        scales = list(scale) if several else [scale]
        if scale is None:
            return None
        if not scales or not all(_is_number(each, _MOST_GUIDANCE) for each in scales):
            raise ArgumentError(
                f"guidance_scale is {brief(scale)}; it must be a number from 0 to {_MOST_GUIDANCE}, or a list of one "
                "for each step"
            )
        return tuple(map(_plain, scales)) if len(scales) > 1 else _plain(scales[0])

    def _seed(self, name: str) -> int | list[int] | None:
        value: Any = getattr(self, name)
        if value is None:
            return None
        several = isinstance(value, Sequence)
        seeds: Sequence[Any] = value if isinstance(value, Sequence) else [value]
        if isinstance(seeds, str) or not all(_is_whole(seed, 0, MOST_SEED) for seed in seeds):
            raise ArgumentError(
                f"{name} is {brief(value)}; it must be a whole number from 0 to 2^64 - 1, or a list of them; leave "
                "it out for a random one"
            )
        if not several and int(seeds[0]) + len(self.prompts) * self.num_images - 1 > MOST_SEED:
            raise ArgumentError(
                f"{name} is {value}, and the seeds of the next images are the next numbers; they must be at most "
                "2^64 - 1, give a lower one"
            )
        return [int(seed) for seed in seeds] if several else int(seeds[0])

    def _sampling(self) -> dict[str, Any]:
        """Sampler and schedule under our names, the sampler's options, and noise levels in place of a schedule."""
        sampler, schedule = self._names()
        levels = {name: self._levels(name) for name in LEVELS}
        if given := [name for name, value in levels.items() if value is not None]:
            self._check_beside(given, len(levels[given[0]] or ()) - (given[0] == "sigmas"), schedule)
        return {"sampler": sampler, "schedule": schedule, "sampler_options": self._sampler_options(), **levels}

    def _names(self) -> tuple[str | None, str | None]:
        """The sampler and the schedule under our names."""
        for name, known in (("sampler", sorted(SAMPLERS)), ("schedule", list(SCHEDULES))):
            if not isinstance(value := getattr(self, name), (str, type(None))):
                raise ArgumentError(f"{name} is {brief(value)}; it must be one of {', '.join(known)}")
        sampler, own = (None, None) if self.sampler is None else read_sampler(self.sampler)
        schedule = None if self.schedule is None else read_schedule(self.schedule, sampler)
        if own is not None and schedule not in (None, own):
            raise ArgumentError(f"sampler is {self.sampler!r} and schedule is {self.schedule!r}; give one schedule")
        return sampler, schedule or own

    def _levels(self, name: str) -> tuple[float, ...] | None:
        value = getattr(self, name)
        if value is None:
            return None
        least = 2 if name == "sigmas" else 1
        numbers = isinstance(value, Sequence) and not isinstance(value, str) and len(value) >= least
        if not numbers or not all(_is_number(each, _MOST) for each in value) or sorted({*value})[::-1] != [*value]:
            raise ArgumentError(f"{name} is {brief(value)}; expected at least {least} falling numbers of at least 0")
        if len(value) > _MOST_LEVELS:
            raise ArgumentError(f"{name} has {len(value)} entries; expected at most {_MOST_LEVELS}")
        return tuple(map(_plain, value))

    def _check_beside(self, given: Sequence[str], steps: int, schedule: str | None) -> None:
        """Raise for arguments that mean nothing beside a list of noise levels."""
        lost = [
            name
            for name, is_given in (
                (given[-1], len(given) > 1),
                ("schedule", schedule is not None),
                ("strength", self.strength is not None),
                ("steps", self.steps not in (None, steps)),
            )
            if is_given
        ]
        if lost:
            raise ArgumentError(
                f"{lost[0]} is given beside {given[0]}, which says where all steps lie; leave {lost[0]} out"
            )

    def _sampler_options(self) -> dict[str, Value] | None:
        value = self.sampler_options
        if value is None:
            return None
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise ArgumentError(f"sampler_options is {brief(value)}; expected names with numbers or words")
        for name, each in value.items():
            if not isinstance(each, str) and (not isinstance(each, Real) or isinstance(each, bool) or each != each):
                raise ArgumentError(f"{name} is {brief(each)} in sampler_options; expected a number or a word")
        return {name: plain(each) for name, each in value.items()} or None

    def _check_names(self) -> None:
        for name, known, optional in (
            ("preset", [NO_PRESET, *PRESETS], True),
            ("prompt_syntax", SYNTAXES, False),
            ("emphasis", EMPHASES, True),
            ("long_prompt", LONG_PROMPTS, False),
        ):
            value = getattr(self, name)
            if not (optional and value is None) and (not isinstance(value, str) or value not in known):
                raise ArgumentError(f"{name} is {brief(value)}; it must be one of {', '.join(known)}")

    def _check_sources(self) -> None:
        """Raise for arguments that only mean something beside another one, or without it."""
        if self.hires is not None and self.image is not None:
            raise ArgumentError("hires is given beside image; it belongs to text to image, leave one of them out")
        for needed, names in (("image", ("mask", "strength", "outpaint")), ("mask", ("mask_padding", "feather"))):
            has_it = self.repaints if needed == "mask" else self.image is not None
            if not has_it and (lost := [name for name in names if getattr(self, name) is not None]):
                raise ArgumentError(f"{lost[0]} is given without {needed}; give {needed} too")

    def _check_text(self, name: str) -> None:
        value = getattr(self, name)
        texts = [value] if isinstance(value, str) else value
        if texts is not None and (not isinstance(texts, Sequence) or not all(isinstance(t, str) for t in texts)):
            raise ArgumentError(f"{name} is {brief(value)}; it must be a text or a list of texts")
        if name == "prompt" and not texts:
            raise ArgumentError("prompt is empty; give a text or a list of texts")
        longest = max(map(len, texts or ()), default=0)
        if self.prompt_syntax != "plain" and longest > MOST_LETTERS:
            raise ArgumentError(
                f"{name} has {longest} characters; expected at most {MOST_LETTERS} with prompt_syntax "
                f"{brief(self.prompt_syntax)}, shorten it"
            )
        if texts is not None and any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
            raise ArgumentError(f"{name} is {brief(value)}, which is no valid Unicode; give it in UTF-8")
        if name != "prompt" and texts is not None and not isinstance(value, str) and len(texts) != len(self.prompts):
            raise ArgumentError(
                f"{name} has {len(texts)} texts for {len(self.prompts)} prompts; give one for each, or one for all"
            )

    @property
    def conventions(self) -> Conventions:
        """Those that `compat` stands for, or ours."""
        return conventions_of(self.compat)

    @property
    def prompts(self) -> list[str]:
        """The prompts as a list."""
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    @property
    def count(self) -> int:
        """How many images it asks for."""
        return len(self.prompts) * self.num_images

    @property
    def levels(self) -> Sequence[float] | None:
        """The noise levels or timesteps that are given in place of a schedule."""
        return self.timesteps if self.sigmas is None else self.sigmas

    @property
    def varies(self) -> bool:
        """Whether the noise of its images is varied."""
        return bool(self.variation_strength)

    @property
    def repaints(self) -> bool:
        """Whether this is inpainting or outpainting."""
        return self.mask is not None or self.outpaint is not None

    def texts(self, name: str) -> list[str] | None:
        """A text argument with one entry per prompt; None where it was not given."""
        value = getattr(self, name)
        return value if value is None else [value] * len(self.prompts) if isinstance(value, str) else list(value)


def spread(entries: Sequence[T], count: int) -> list[T]:
    """`count` entries from one for all, or from one for each group of equal size."""
    return [entry for entry in entries for _ in range(count // len(entries))]


def _is_list(value: Any, count: int, check: Callable[[Any], bool]) -> bool:
    is_sequence = isinstance(value, Sequence) and not isinstance(value, str)
    return is_sequence and len(value) == count and all(map(check, value))


def _is_whole(value: Any, least: int, most: int = _MOST) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most


def _is_number(value: Any, most: float) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= cast(float, value) <= most


def _plain(value: Any) -> int | float:
    """Python's own number for numpy's."""
    return int(value) if isinstance(value, Integral) else float(value)
