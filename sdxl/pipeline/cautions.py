"""Warnings about what is likely not meant, such as a mask that repaints nothing or weights that are read as words."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import brief, warn
from ..images.canvas import Canvas
from ..images.pixels import to_tensor
from ..models.config import ModelConfig
from ..models.schedule_config import ScheduleConfig
from ..sampling.samplers import SAMPLERS
from ..text.constructs import find_constructs
from .argument_groups import TEXTS
from .guidance_scales import most_guidance
from .request import Request, Size
from .sizing import darkest
from .sources import Sources

_MANY_TIMES = 5
_MOST_CFG_PP = 3


def warn_of_masks(
    request: Request, config: ModelConfig, sources: Sources, canvases: Sequence[Canvas], steps: int
) -> None:
    """A mask may miss every latent's pixel, or be too dark for the number of steps, and then changes nothing."""
    factor, least = config.vae.factor, darkest(request, config, steps) / 255
    if canvases:
        with_mask = [canvas for canvas in {id(each): each for each in canvases}.values() if canvas.mask is not None]
        masks = [canvas.work_mask for canvas in with_mask]
    else:
        masks = [to_tensor(mask) for mask in sources.masks or ()]
    if any(mask[:, ::factor, ::factor].max() < least - 1e-4 for mask in masks):
        warn(
            "the mask repaints nothing: it is black, or too small or too dark for this size and number of steps; "
            "white is repainted, and mask_padding enlarges what is small"
        )


def warn_of_size(request: Request, sources: Sources, config: ModelConfig, size: Size) -> None:
    """A photo may be many times as large as the images that SDXL was trained on, and take as many times longer."""
    times = size[0] * size[1] / (config.native_size[0] * config.native_size[1])
    if sources.images is not None and (request.height, request.width) == (None, None) and times > _MANY_TIMES:
        warn(
            f"the image is worked on at its own {size[1]} x {size[0]}, {times:.0f} times the size that the model was "
            "trained on; give width and height, or a mask with mask_padding, to work on less"
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
        read = f"prompt_syntax {' or '.join(readers)} reads" if readers else "no prompt_syntax reads"
        parts.append(f"{read} {', '.join(examples)}")
    warn(f"the prompts have syntax that is words in prompt_syntax {request.prompt_syntax}: {'; '.join(parts)}")


def warn_of_defaults(request: Request, config: ScheduleConfig) -> None:
    """The model's files may recommend a sampler or a schedule that is not supported."""
    schedule = request.schedule or request.levels
    notes = ((request.sampler, config.sampler_note), (schedule, config.schedule_note))
    for note in [note for given, note in notes if note and not given]:
        warn(note)


def warn_of_cfg_pp(request: Request, sampler: str) -> None:
    """The guidance of CFG++ is of another scale."""
    scale = most_guidance(request)
    if SAMPLERS[sampler].with_pair and scale > _MOST_CFG_PP:
        warn(f"guidance_scale is {scale:g} and the sampler is {sampler}, whose guidance is stronger; give 1 to 2")


def warn_of_eta(request: Request, sampler: str, eta: float) -> None:
    """Another tool may have no `eta` for a sampler that has one here."""
    if request.eta not in (None, eta):
        warn(
            f"eta has no effect: by these conventions (compat) {sampler} has none, which is {eta:g} here; leave it out"
        )
