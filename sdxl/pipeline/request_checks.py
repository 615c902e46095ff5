"""What the arguments of a request may be, each by itself and beside the others, and their plain forms. Imports no
torch, and opens no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from ..adapters.control import read_controls
from ..adapters.lora import read_loras
from ..adapters.reference import read_references
from ..errors import ArgumentError, brief, is_number
from ..sampling.guiders import read_guider
from ..sampling.names import read_sampler, read_schedule
from ..sampling.presets import NO_PRESET, PRESETS
from ..sampling.samplers import SAMPLERS
from ..sampling.schedules import SCHEDULES
from ..sampling.settings import Value, plain
from ..text.grammars import EMPHASES, LONG_PROMPTS, MOST_LETTERS, SYNTAXES
from .argument_groups import LEVELS, SEEDS, TEXTS
from .hires import read_hires

if TYPE_CHECKING:
    from .request import Request

MOST_IMAGES, _MOST = 2**16, 10**6  # images, and any whole number but a seed; against typing errors
_MOST_LEVELS = 10_000
_MOST_SEED = 2**64 - 1
_MOST_GUIDANCE = 1000

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
_WORDS = {
    "preset": (NO_PRESET, *PRESETS),
    "prompt_syntax": SYNTAXES,
    "emphasis": EMPHASES,
    "long_prompt": LONG_PROMPTS,
}


def checked(request: Request) -> dict[str, Any]:
    """The arguments of a request in their plain forms: numpy's numbers, which JSON does not know, are Python's, lists
    of numbers, which JSON has, are tuples, and objects of JSON are the values that they describe. Raises
    `ArgumentError`.
    """
    for name in TEXTS:
        _check_text(request, name)
    found = _numbers(request) | _tuples(request) | {"guidance_scale": _guidance_scale(request)}
    found |= {name: _seed(request, name) for name in SEEDS}
    found |= {} if request.guider is None else {"guider": read_guider(request.guider)}
    found |= {name: list(text) for name in TEXTS if not isinstance(text := getattr(request, name), (str, type(None)))}
    found |= {} if request.hires is None else {"hires": read_hires(request.hires)}
    found |= {} if request.loras is None else {"loras": read_loras(request.loras)}
    found |= {} if request.control is None else {"control": read_controls(request.control) or None}
    found |= {} if request.reference is None else {"reference": read_references(request.reference) or None}
    _check_words(request)
    found |= _sampling(request)
    _check_sources(request)
    return found


def _check_text(request: Request, name: str) -> None:
    value = getattr(request, name)
    texts = [value] if isinstance(value, str) else value
    if texts is not None and (not isinstance(texts, Sequence) or not all(isinstance(t, str) for t in texts)):
        advice = ". Try pipe(**vars(request)) for a request" if isinstance(value, type(request)) else ""
        raise ArgumentError(f"{name} is {brief(value)}; it must be a text or a list of texts{advice}")
    if name == "prompt" and not texts:
        raise ArgumentError("prompt is empty; give a text or a list of texts")
    longest = max(map(len, texts or ()), default=0)
    if request.prompt_syntax != "plain" and longest > MOST_LETTERS:
        raise ArgumentError(
            f"{name} has {longest} characters; expected at most {MOST_LETTERS} with prompt_syntax "
            f"{brief(request.prompt_syntax)}, shorten it"
        )
    if texts is not None and any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
        raise ArgumentError(f"{name} is {brief(value)}, which is no valid Unicode; give it in UTF-8")
    if name != "prompt" and texts is not None and not isinstance(value, str) and len(texts) != len(request.prompts):
        raise ArgumentError(
            f"{name} has {len(texts)} texts for {len(request.prompts)} prompts; give one for each, or one for all"
        )


def _numbers(request: Request) -> dict[str, Any]:
    """The single numbers, checked."""
    found: dict[str, Any] = {}
    for name, least in _WHOLE.items():
        if _is_open(request, name):
            continue
        value = getattr(request, name)
        if not _is_whole(value, least):
            raise ArgumentError(f"{name} is {brief(value)}; it must be a whole number from {least} to {_MOST}")
        found[name] = int(value)
    if len(request.prompts) * found["num_images"] > MOST_IMAGES:
        raise ArgumentError(
            f"num_images is {request.num_images} for {len(request.prompts)} prompts; at most {MOST_IMAGES} images are "
            "generated in one call, call again for more"
        )
    for name, most in _NUMBERS.items():
        if _is_open(request, name):
            continue
        value = getattr(request, name)
        if not _is_number(value, most):
            raise ArgumentError(f"{name} is {brief(value)}; it must be a number from 0 to {most}")
        found[name] = _python(value)
    return found


def _tuples(request: Request) -> dict[str, Any]:
    """The pairs and quadruples of numbers, checked."""
    found: dict[str, Any] = {}
    for name in (each.name for each in fields(request) if each.name.endswith(("_size", "_top_left"))):
        least = 0 if name.endswith("top_left") else 1
        found[name] = _several(request, name, 2, least, "(height, width)")
    found["outpaint"] = _several(request, "outpaint", 4, 0, "(left, top, right, bottom)")
    interval = request.guidance_interval
    if interval is not None:
        if not _is_list(interval, 2, lambda each: _is_number(each, _MOST)) or interval[0] > interval[1]:
            raise ArgumentError(
                f"guidance_interval is {brief(interval)}; it must be two sigmas from 0 to {_MOST}, (low, high)"
            )
        found["guidance_interval"] = tuple(map(_python, interval))
    return found


def _several(request: Request, name: str, count: int, least: int, order: str) -> tuple[int, ...] | None:
    value = getattr(request, name)
    if value is None:
        return None
    if not _is_list(value, count, lambda each: _is_whole(each, least)):
        number = {2: "two", 4: "four"}[count]
        raise ArgumentError(f"{name} is {brief(value)}; it must be {number} whole numbers of at least {least}, {order}")
    return tuple(map(int, value))


def _guidance_scale(request: Request) -> float | tuple[float, ...] | None:
    scale: Any = request.guidance_scale
    several = isinstance(scale, Sequence) and not isinstance(scale, str)
    scales = list(scale) if several else [scale]
    if scale is None:
        return None
    if not scales or not all(_is_number(each, _MOST_GUIDANCE) for each in scales):
        raise ArgumentError(
            f"guidance_scale is {brief(scale)}; it must be a number from 0 to {_MOST_GUIDANCE}, or a list of one "
            "for each step"
        )
    return tuple(map(_python, scales)) if len(scales) > 1 else _python(scales[0])


def _seed(request: Request, name: str) -> int | list[int] | None:
    value: Any = getattr(request, name)
    if value is None:
        return None
    several = isinstance(value, Sequence)
    seeds: Sequence[Any] = value if isinstance(value, Sequence) else [value]
    if isinstance(seeds, str) or not all(_is_whole(seed, 0, _MOST_SEED) for seed in seeds):
        raise ArgumentError(
            f"{name} is {brief(value)}; it must be a whole number from 0 to 2^64 - 1, or a list of them; leave "
            "it out for a random one"
        )
    if not several and int(seeds[0]) + len(request.prompts) * request.num_images - 1 > _MOST_SEED:
        raise ArgumentError(
            f"{name} is {value}, and the seeds of the next images are the next numbers; they must be at most "
            "2^64 - 1, give a lower one"
        )
    return [int(seed) for seed in seeds] if several else int(seeds[0])


def _sampling(request: Request) -> dict[str, Any]:
    """Sampler and schedule under our names, the sampler's options, and noise levels in place of a schedule."""
    sampler, schedule = _names(request)
    levels = {name: _levels(request, name) for name in LEVELS}
    if given := [name for name, value in levels.items() if value is not None]:
        _check_beside(request, given, len(levels[given[0]] or ()) - (given[0] == "sigmas"), schedule)
    return {"sampler": sampler, "schedule": schedule, "sampler_options": _sampler_options(request), **levels}


def _names(request: Request) -> tuple[str | None, str | None]:
    """The sampler and the schedule under our names."""
    for name, known in (("sampler", sorted(SAMPLERS)), ("schedule", list(SCHEDULES))):
        if not isinstance(value := getattr(request, name), (str, type(None))):
            kind = value if isinstance(value, type) else type(value)
            hint = f". Try {name}={kind.__name__!r}" if kind.__name__.endswith("Scheduler") else ""  # of diffusers
            raise ArgumentError(f"{name} is {brief(value)}; it must be one of {', '.join(known)}{hint}")
    sampler, own = (None, None) if request.sampler is None else read_sampler(request.sampler)
    schedule = None if request.schedule is None else read_schedule(request.schedule, sampler)
    if own is not None and schedule not in (None, own):
        raise ArgumentError(f"sampler is {request.sampler!r} and schedule is {request.schedule!r}; give one schedule")
    return sampler, schedule or own


def _levels(request: Request, name: str) -> tuple[float, ...] | None:
    value = getattr(request, name)
    if value is None:
        return None
    least = 2 if name == "sigmas" else 1
    numbers = isinstance(value, Sequence) and not isinstance(value, str) and len(value) >= least
    if not numbers or not all(_is_number(each, _MOST) for each in value) or sorted({*value})[::-1] != [*value]:
        raise ArgumentError(f"{name} is {brief(value)}; expected at least {least} falling numbers of at least 0")
    if len(value) > _MOST_LEVELS:
        raise ArgumentError(f"{name} has {len(value)} entries; expected at most {_MOST_LEVELS}")
    return tuple(map(_python, value))


def _check_beside(request: Request, given: Sequence[str], steps: int, schedule: str | None) -> None:
    """Raise for arguments that mean nothing beside a list of noise levels."""
    lost = [
        name
        for name, is_given in (
            (given[-1], len(given) > 1),
            ("schedule", schedule is not None),
            ("strength", request.strength is not None),
            ("steps", request.steps not in (None, steps)),
        )
        if is_given
    ]
    if lost:
        raise ArgumentError(
            f"{lost[0]} is given beside {given[0]}, which says where all steps lie; leave {lost[0]} out"
        )


def _sampler_options(request: Request) -> dict[str, Value] | None:
    value = request.sampler_options
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ArgumentError(f"sampler_options is {brief(value)}; expected names with numbers or words")
    for name, each in value.items():
        if not isinstance(each, str) and (not isinstance(each, Real) or isinstance(each, bool) or each != each):
            raise ArgumentError(f"{name} is {brief(each)} in sampler_options; expected a number or a word")
    return {name: plain(each) for name, each in value.items()} or None


def _check_words(request: Request) -> None:
    """Raise for a word that is none of an argument's."""
    for name, known in _WORDS.items():
        value = getattr(request, name)
        if not _is_open(request, name) and (not isinstance(value, str) or value not in known):
            raise ArgumentError(f"{name} is {brief(value)}; it must be one of {', '.join(known)}")


def _check_sources(request: Request) -> None:
    """Raise for arguments that only mean something beside another one, or without it."""
    if request.hires is not None and request.image is not None:
        raise ArgumentError("hires is given beside image; it belongs to text to image, leave one of them out")
    for needed, names in (("image", ("mask", "strength", "outpaint")), ("mask", ("mask_padding", "feather"))):
        has_it = request.repaints if needed == "mask" else request.image is not None
        if not has_it and (lost := [name for name in names if getattr(request, name) is not None]):
            raise ArgumentError(f"{lost[0]} is given without {needed}; give {needed} too")


def _is_open(request: Request, name: str) -> bool:
    """Whether an argument is left open: None, where that is its default."""
    return getattr(request, name) is None and getattr(type(request), name) is None


def _is_list(value: Any, count: int, check: Callable[[Any], bool]) -> bool:
    is_sequence = isinstance(value, Sequence) and not isinstance(value, str)
    return is_sequence and len(value) == count and all(map(check, value))


def _is_whole(value: Any, least: int, most: int = _MOST) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most


def _is_number(value: Any, most: float) -> bool:
    return is_number(value) and 0 <= value <= most


def _python(value: Any) -> int | float:
    """Python's own number for numpy's."""
    return int(value) if isinstance(value, Integral) else float(value)
