"""One statement of what to generate: `Pipeline`'s keyword arguments, the command line's flags and a PNG's record are
views of this dataclass. Imports no torch, and opens no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..adapters.control import Control
from ..adapters.lora import LoRA
from ..adapters.reference import Reference
from ..errors import ArgumentError
from ..images.upscalers import UPSCALERS
from ..sampling.guiders import NamedGuider
from ..sampling.presets import PRESETS
from ..sampling.samplers import SAMPLERS
from ..sampling.schedules import SCHEDULES
from ..sampling.settings import SETTINGS, Value
from ..text.grammars import EMPHASES, LONG_PROMPTS, SYNTAXES
from .argument_groups import SOURCES
from .conventions import Conventions
from .equality import equal_fields
from .hires import Hires
from .option import option
from .profiles import PROFILES, Compat, conventions_of, read_compat
from .request_checks import checked

if TYPE_CHECKING:
    from torch import Tensor

    from ..images.image import Picture

T = TypeVar("T")
Size = tuple[int, int]
Borders = tuple[int, int, int, int]


def _size(help: str) -> Any:
    return option(help, type=int, metavar="A,B", example="1024,1024")


@dataclass(frozen=True)
class Request:
    """What to generate: one image or several. All sizes are (height, width), crops (top, left), in pixels.

    `image` is a PIL image, a path, a tensor (B, 3, H, W) in 0..1 or already scaled latents (B, 4, h, w); `mask`
    likewise, (B, 1, H, W) as a tensor. Latents may be a path too, to a .safetensors file with one tensor. Files are
    opened by `read_sources`, before a model is loaded. A call takes the fields: `pipe(**vars(request))`. Raises
    `ArgumentError`.
    """

    prompt: str | Sequence[str] = option(
        "what to generate; give it several times for several images", default=MISSING, repeated=True
    )
    negative_prompt: str | Sequence[str] | None = option(
        "what to avoid (default: none, which is zeros, as SDXL was trained)", repeated=True
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
        f"the settings of a family of models, for what is not given: none, {', '.join(PRESETS)} (default: the one that "
        "the model's or a LoRA's files show)",
        metavar="NAME",
    )
    compat: Compat = option(
        f"the conventions of another tool, for what is not given: {', '.join(PROFILES)}; members of Conventions may "
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
        "start noise of variance 1: a .safetensors file with one tensor", type=Path, hash=False
    )
    image: Picture | Sequence[Picture] | Tensor | None = option(
        "an image to start from, or latents in a .safetensors file; several, one for each prompt",
        type=Path,
        repeated=True,
        hash=False,
    )
    mask: Picture | Sequence[Picture] | Tensor | None = option(
        "the part of it to repaint: white is repainted, grey in a part of the steps",
        type=Path,
        repeated=True,
        hash=False,
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
        + ", ".join(UPSCALERS)
        + ", or a network's file (ESRGAN)",
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
        for name, value in checked(self).items():
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        """Tensors are equal if their values are."""
        return equal_fields(self, other) if isinstance(other, Request) else NotImplemented

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


def seeds_of(seed: int | Sequence[int], count: int, name: str = "seed", advance: bool = True) -> tuple[int, ...]:
    """The seed of each image: the given ones, or the numbers from the first one on, or that one for all. Raises
    `ArgumentError`; `name` is the argument.
    """
    if isinstance(seed, int):
        return tuple(seed + i if advance else seed for i in range(count))
    if len(seed) != count:
        raise ArgumentError(f"{name} has {len(seed)} entries for {count} images; give one for each, or a single one")
    return tuple(seed)
