"""One picture's statement: `Pipeline`'s keyword arguments, the command line's flags and what a PNG records are views
of this dataclass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .errors import ArgumentError
from .tensorfile import brief

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor

    from .image import Picture

MOST_PICTURES, _MOST = 2**16, 10**6  # pictures, and any whole number but a seed; against typing errors
_MOST_SEED = 2**63 - 1
T = TypeVar("T")
Size = tuple[int, int]
Borders = tuple[int, int, int, int]


def _option(help: str, default: Any = None) -> Any:
    """A field with the text of its flag."""
    return field(default=default, metadata={"help": help})


# names of arguments with their least and their highest value
_WHOLE = {"steps": 1, "num_images": 1, "feather": 0, "width": 1, "height": 1, "clip_skip": 0, "mask_padding": 0}
_NUMBERS = {
    "guidance_scale": 1000,
    "guidance_rescale": 1,
    "eta": 1,
    "strength": 1,
    "refine_at": 1,
    "aesthetic_score": 100,
    "negative_aesthetic_score": 100,
}
_OPTIONAL = ("width", "height", "clip_skip", "mask_padding", "feather", "strength", "refine_at")


@dataclass(frozen=True)
class Request:
    """The arguments of a picture, or of several. All sizes are (height, width), crops (top, left), in pixels.

    `image` is a PIL picture, a path, a tensor (B, 3, H, W) in 0..1 or already scaled latents (B, 4, h, w); `mask`
    likewise, (B, 1, H, W) as a tensor. Latents may be a path too, to a .safetensors file with one tensor. All are
    opened here, so that what is wrong with them is told at once.
    """

    prompt: str | Sequence[str] = field(metadata={"help": "what to draw; give it several times for several pictures"})
    negative_prompt: str | Sequence[str] | None = _option(
        "what to keep away from (default: zeros, as SDXL was trained)"
    )
    prompt_2: str | Sequence[str] | None = _option("another prompt for the second text encoder")
    negative_prompt_2: str | Sequence[str] | None = _option("another negative prompt for the second text encoder")
    width: int | None = _option("in pixels, a multiple of 8 (default: the image's, else the model's native size)")
    height: int | None = _option("in pixels, a multiple of 8 (default: the image's, else the model's native size)")
    steps: int = _option("how many sampler steps", 30)
    guidance_scale: float = _option("how strongly to follow the prompt; 1 or less turns guidance off", 5.0)
    guidance_rescale: float = _option("0 to 1, against overexposure (phi in arXiv 2305.08891)", 0.0)
    guidance_interval: tuple[float, float] | None = _option(
        "LOW,HIGH sigmas between which guidance acts; elsewhere a step takes half the time (default: everywhere)"
    )
    sampler: str | None = _option("ddim, euler, euler_ancestral, heun or dpmpp_2m (default: the model's)")
    schedule: str | None = _option(
        "leading, trailing, sgm, linspace, karras or exponential (default: the model's, mostly leading)"
    )
    eta: float = _option("0 to 1, the noise that ddim draws anew at each step", 0.0)
    seed: int | Sequence[int] | None = _option("of the first picture, the next takes seed + 1 (default: random)")
    num_images: int = _option("pictures per prompt", 1)
    clip_skip: int | None = _option("text encoder layers to leave out at the end, beyond SDXL's one")
    original_size: Size | None = _option(
        "HEIGHT,WIDTH of the picture before cropping, as SDXL is told (default: the size)"
    )
    crop_top_left: Size | None = _option(
        "TOP,LEFT of the crop, as SDXL is told (default: 0,0, with mask_padding the truth)"
    )
    target_size: Size | None = _option("HEIGHT,WIDTH of the result, as SDXL is told (default: the size)")
    negative_original_size: Size | None = _option("the same for the negative prompt (default: original_size)")
    negative_crop_top_left: Size | None = _option("the same for the negative prompt (default: crop_top_left)")
    negative_target_size: Size | None = _option("the same for the negative prompt (default: target_size)")
    latents: Tensor | str | Path | None = _option("start noise of variance 1: a .safetensors file with one tensor")
    image: Picture | Sequence[Picture] | Tensor | None = _option(
        "a picture to start from, or latents in a .safetensors file; several, one for each prompt"
    )
    mask: Picture | Sequence[Picture] | Tensor | None = _option(
        "what to repaint of it: white is repainted, grey in a part of the steps"
    )
    strength: float | None = _option("0 to 1, how far to go from the picture (default: 0.3, with a mask 1.0)")
    mask_padding: int | None = _option(
        "work on the box around the mask, that many pixels larger, at the full size, and put it back"
    )
    feather: int | None = _option("pixels from the mask's edge inwards over which the old picture fades (default: 0)")
    outpaint: Borders | None = _option("LEFT,TOP,RIGHT,BOTTOM pixels to paint around the picture")
    refine_at: float | None = _option("the part of the noise schedule after which the refiner goes on (default: 0.8)")
    aesthetic_score: float = _option("what the refiner is told about the picture, about 2 to 7", 6.0)
    negative_aesthetic_score: float = _option("the same for the negative prompt", 2.5)

    def __post_init__(self) -> None:
        for name in ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2"):
            self._check_text(name)
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                if not _whole(value, least):
                    raise ArgumentError(f"{name} is {brief(value)}; it must be a whole number from {least} to {_MOST}")
                object.__setattr__(self, name, int(value))  # numpy's, which JSON does not know, become Python's
        if len(self.prompts) * self.num_images > MOST_PICTURES:
            raise ArgumentError(
                f"num_images is {self.num_images} for {len(self.prompts)} prompts; at most {MOST_PICTURES} pictures "
                "are drawn at once, ask again for more"
            )
        for name, most in _NUMBERS.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                if not _number(value, most):
                    raise ArgumentError(f"{name} is {brief(value)}; it must be a number from 0 to {most}")
                object.__setattr__(self, name, _plain(value))
        for name in (each.name for each in fields(self) if each.name.endswith(("_size", "_top_left"))):
            self._check_numbers(name, 2, 0 if name.endswith("top_left") else 1, "(height, width)")
        self._check_numbers("outpaint", 4, 0, "(left, top, right, bottom)")
        self._check_interval()
        self._check_names()
        self._check_seeds()
        if self.latents is not None:
            from .image import open_latents  # here, since it needs torch

            object.__setattr__(self, "latents", open_latents(self.latents, "latents"))
        self._check_sources()

    def _check_seeds(self) -> None:
        if self.seed is None:
            return
        several = isinstance(self.seed, Sequence)
        seeds: Sequence[Any] = self.seed if isinstance(self.seed, Sequence) else [self.seed]
        if isinstance(seeds, str) or not all(_whole(seed, 0, _MOST_SEED) for seed in seeds):
            raise ArgumentError(
                f"seed is {brief(self.seed)}; it must be a whole number from 0 to 2^63 - 1, or a list of them; without "
                "one it is drawn by lot"
            )
        if not several and int(seeds[0]) + len(self.prompts) * self.num_images - 1 > _MOST_SEED:
            raise ArgumentError(
                f"seed is {self.seed}, and the seeds of the next pictures are the next numbers; they must be at most "
                "2^63 - 1, give a lower one"
            )
        object.__setattr__(self, "seed", [int(seed) for seed in seeds] if several else int(seeds[0]))

    def _check_sources(self) -> None:
        """Open the pictures: afterwards `image` is a tuple of RGB pictures or latents, `mask` a tuple of grey ones."""
        for needed, names in (("image", ("mask", "strength", "outpaint")), ("mask", ("mask_padding", "feather"))):
            has_it = self.repaints if needed == "mask" else self.image is not None
            if not has_it and (lost := [name for name in names if getattr(self, name) is not None]):
                raise ArgumentError(f"{lost[0]} is given without {needed}; give {needed} too")
        if self.image is None:
            return
        from .image import open_sources  # here, since it needs torch

        for name in ("image", "mask"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, open_sources(value, name, len(self.prompts)))
        self._check_mask_sizes()
        if self.outpaint is not None and (not any(self.outpaint) or self.image_latents is not None):
            raise ArgumentError(
                f"outpaint is {self.outpaint}; it needs a picture (not latents) and at least one border above 0"
            )

    def _check_mask_sizes(self) -> None:
        if self.pictures is None or self.masks is None:
            return
        count = max(len(self.pictures), len(self.masks))
        for picture, mask in zip(spread(self.pictures, count), spread(self.masks, count), strict=True):
            if picture.size != mask.size:
                raise ArgumentError(
                    f"mask is {mask.width} x {mask.height} and image {picture.width} x {picture.height}; "
                    "they must be of the same size"
                )

    def _check_interval(self) -> None:
        value = self.guidance_interval
        if value is None:
            return
        if (
            not isinstance(value, Sequence)
            or len(value) != 2
            or not all(_number(each, _MOST) for each in value)
            or value[0] > value[1]
        ):
            raise ArgumentError(
                f"guidance_interval is {brief(value)}; it must be two sigmas of at least 0, (low, high)"
            )
        object.__setattr__(self, "guidance_interval", tuple(map(_plain, value)))

    def _check_names(self) -> None:
        from .samplers import SAMPLERS  # here, since these need torch and the command line's help does not
        from .schedule import SPACINGS

        for name, known in (("sampler", tuple(SAMPLERS)), ("schedule", SPACINGS)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or value not in known):
                raise ArgumentError(f"{name} is {brief(value)}; it must be one of {', '.join(known)}")

    def _check_text(self, name: str) -> None:
        value = getattr(self, name)
        texts = [value] if isinstance(value, str) else value
        if texts is not None and (not isinstance(texts, Sequence) or not all(isinstance(t, str) for t in texts)):
            raise ArgumentError(f"{name} is {brief(value)}; it must be a text or a list of texts")
        if name == "prompt" and not texts:
            raise ArgumentError("prompt is empty; give a text or a list of texts")
        if texts is not None and any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
            raise ArgumentError(f"{name} is {brief(value)}, which is no valid Unicode; give it in UTF-8")
        if texts is not None and not isinstance(value, str):
            object.__setattr__(self, name, list(texts))  # the caller's list may change
        if name != "prompt" and texts is not None and not isinstance(value, str) and len(texts) != len(self.prompts):
            raise ArgumentError(
                f"{name} has {len(texts)} texts for {len(self.prompts)} prompts; give one for each, or one for all"
            )

    def _check_numbers(self, name: str, count: int, least: int, order: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if (
            not isinstance(value, Sequence)
            or isinstance(value, str)
            or len(value) != count
            or not all(_whole(each, least) for each in value)
        ):
            number = {2: "two", 4: "four"}[count]
            raise ArgumentError(
                f"{name} is {brief(value)}; it must be {number} whole numbers of at least {least}, {order}"
            )
        object.__setattr__(self, name, tuple(map(int, value)))  # a list, from JSON, becomes a tuple

    @property
    def prompts(self) -> list[str]:
        """The prompts as a list."""
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    @property
    def pictures(self) -> tuple[Image, ...] | None:
        """The opened source pictures."""
        return self.image if isinstance(self.image, tuple) else None

    @property
    def image_latents(self) -> Tensor | None:
        """The source as scaled latents (B, 4, h, w), where it was given so."""
        return None if isinstance(self.image, tuple) else cast("Tensor | None", self.image)

    @property
    def start_noise(self) -> Tensor | None:
        """The start noise of variance 1, where it was given."""
        return cast("Tensor | None", self.latents)

    @property
    def masks(self) -> tuple[Image, ...] | None:
        """The opened masks."""
        return self.mask if isinstance(self.mask, tuple) else None

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


def _whole(value: Any, least: int, most: int = _MOST) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most


def _number(value: Any, most: float) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= cast(float, value) <= most


def _plain(value: Any) -> int | float:
    """Python's own number for numpy's."""
    return int(value) if isinstance(value, Integral) else float(value)
