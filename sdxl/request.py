"""One picture's statement: `Pipeline`'s keyword arguments, the command line's flags and what a PNG records are views
of this dataclass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor

Size = tuple[int, int]


def _option(help: str, default: Any = None) -> Any:
    """A field with the text of its flag."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Request:
    """The arguments of a picture, or of several. All sizes are (height, width), crops (top, left), in pixels."""

    prompt: str | Sequence[str] = field(metadata={"help": "what to draw; give it several times for several pictures"})
    negative_prompt: str | Sequence[str] | None = _option(
        "what to keep away from (default: zeros, as SDXL was trained)"
    )
    prompt_2: str | Sequence[str] | None = _option("another prompt for the second text encoder")
    negative_prompt_2: str | Sequence[str] | None = _option("another negative prompt for the second text encoder")
    width: int | None = _option("in pixels, a multiple of 8 (default: the model's native size)")
    height: int | None = _option("in pixels, a multiple of 8 (default: the model's native size)")
    steps: int = _option("how many sampler steps", 30)
    guidance_scale: float = _option("how strongly to follow the prompt; 1 or less turns guidance off", 5.0)
    guidance_rescale: float = _option("0 to 1, against overexposure (phi in arXiv 2305.08891)", 0.0)
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
    crop_top_left: Size = _option("TOP,LEFT of the crop, as SDXL is told", (0, 0))
    target_size: Size | None = _option("HEIGHT,WIDTH of the result, as SDXL is told (default: the size)")
    negative_original_size: Size | None = _option("the same for the negative prompt (default: original_size)")
    negative_crop_top_left: Size | None = _option("the same for the negative prompt (default: crop_top_left)")
    negative_target_size: Size | None = _option("the same for the negative prompt (default: target_size)")
    latents: Tensor | None = _option("start noise of variance 1: a .safetensors file with one tensor")

    def __post_init__(self) -> None:
        for name in ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2"):
            self._check_text(name)
        for name, low in (("steps", 1), ("num_images", 1), ("width", 1), ("height", 1), ("clip_skip", 0)):
            value = getattr(self, name)
            if (value is not None or name in ("steps", "num_images")) and not _whole(value, low):
                raise ArgumentError(f"{name} is {value!r}; it must be a whole number of at least {low}")
        for name, high in (("guidance_scale", math.inf), ("guidance_rescale", 1), ("eta", 1)):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not 0 <= value <= high
                or value == math.inf
            ):
                raise ArgumentError(f"{name} is {value!r}; it must be a number from 0" + f" to {high}" * (high == 1))
        for name in (each.name for each in fields(self) if each.name.endswith(("_size", "_top_left"))):
            self._check_size(name)
        self._check_names()
        seeds = self.seed if isinstance(self.seed, Sequence) else [] if self.seed is None else [self.seed]
        if isinstance(seeds, str) or not all(_whole(seed, 0) and seed < 2**63 for seed in seeds):
            raise ArgumentError(
                f"seed is {self.seed!r}; it must be a whole number from 0 to 2^63 - 1, or a list of them"
            )

    def _check_names(self) -> None:
        from .samplers import SAMPLERS  # here, since these need torch and the command line's help does not
        from .schedule import SPACINGS

        for name, known in (("sampler", tuple(SAMPLERS)), ("schedule", SPACINGS)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ArgumentError(f"{name} is {value!r}; it must be one of {', '.join(known)}")

    def _check_text(self, name: str) -> None:
        value = getattr(self, name)
        texts = [value] if isinstance(value, str) else value
        if name == "prompt" and not texts and value != "":
            raise ArgumentError("prompt is empty; give a text or a list of texts")
        if texts is not None and (not isinstance(texts, Sequence) or not all(isinstance(t, str) for t in texts)):
            raise ArgumentError(f"{name} is {value!r}; it must be a text or a list of texts")
        if name != "prompt" and texts is not None and not isinstance(value, str) and len(texts) != len(self.prompts):
            raise ArgumentError(f"{name} has {len(texts)} texts for {len(self.prompts)} prompts")

    def _check_size(self, name: str) -> None:
        value = getattr(self, name)
        if value is None and name != "crop_top_left":
            return
        low = 0 if name.endswith("top_left") else 1
        if not isinstance(value, Sequence) or len(value) != 2 or not all(_whole(side, low) for side in value):
            raise ArgumentError(f"{name} is {value!r}; it must be two whole numbers of at least {low}, (height, width)")
        object.__setattr__(self, name, (value[0], value[1]))  # a list, from JSON, becomes a tuple

    @property
    def prompts(self) -> list[str]:
        """The prompts as a list."""
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    def texts(self, name: str) -> list[str] | None:
        """A text argument with one entry per prompt; None where it was not given."""
        value = getattr(self, name)
        return value if value is None else [value] * len(self.prompts) if isinstance(value, str) else list(value)


def _whole(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low
