"""A request's prompts as guidance branches: which texts each of them has, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ArgumentError, brief, warn
from ..sampling.composition import Composition, Timeline
from ..sampling.guidance import NEGATIVE, POSITIVE, Guidance, Guider
from ..sampling.samplers import SAMPLERS
from ..text.chunks import Reading
from ..text.editing import Stretch, split_and, split_tags, stretches
from .request import Request


@dataclass(frozen=True)
class _Steps:
    """How many steps (or calls of the network) a pass has, and the one before it."""

    count: int
    before: int


EMPHASIS = {"plain": "none", "a1111": "original", "comfyui": "comfyui"}
"""How weights act unless the request says otherwise, by syntax."""


@dataclass(frozen=True)
class Texts:
    """What a branch says: a text for each prompt, and for the second text encoder."""

    prompts: tuple[str, ...]
    prompts_2: tuple[str, ...]


@dataclass(frozen=True)
class Branches:
    """The guider of a request, and the texts of its branches; a negative prompt that was not given has none. Those of a
    timeline follow each other.
    """

    guider: Guider
    texts: Mapping[str, Texts]
    negatives: frozenset[str]
    timelines: tuple[tuple[str, ...], ...] = ()

    def texts_of(self, number: int) -> list[str]:
        """All texts that a prompt has in some branch."""
        return [own[number] for each in self.texts.values() for own in (each.prompts, each.prompts_2)]


def reading_of(request: Request) -> Reading:
    """How the prompts of a request are read."""
    syntax = request.prompt_syntax
    emphasis = request.emphasis or request.conventions.emphasis or EMPHASIS[syntax]
    return Reading(syntax, request.long_prompt == "truncate", emphasis)


def counted_steps(request: Request, run: int) -> int:
    """What a prompt's changes count in a pass of which so many steps `run`: these, or calls of the network."""
    calls = _calls(request)
    return (request.steps or 1) * calls if calls else run


def _calls(request: Request) -> int:
    """The calls of the network in a step, where these are counted, else 0."""
    counts = request.conventions.prompt_changes == "calls"
    return SAMPLERS[str(request.sampler)].calls if counts else 0


def make_branches(request: Request, guidance: Guidance, sigmas: Sequence[float], before: int = 0) -> Branches:
    """The branches of a request whose steps are at `sigmas`, after the `before` counted steps of a first pass."""
    steps = _Steps(max(counted_steps(request, len(sigmas) - 1), 1), before)
    parts, texts, is_even = [], dict[str, Texts](), True
    for number, (own, weights) in enumerate(_parts(request)):
        name = POSITIVE if number == 0 else f"{POSITIVE} {number + 1}"
        timeline, more = _timeline(name, own, _seconds(request), request, steps)
        parts.append((timeline, tuple(weight for weight in weights for _ in range(request.num_images))))
        is_even = is_even and all(weight == 1 for weight in weights)
        texts |= more
    negative = Timeline((NEGATIVE,), (steps.count,))
    negatives, second = _negatives(request)
    if negatives is not None or second is not None:
        negatives = negatives if negatives is not None else [""] * len(request.prompts)
        negative, more = _timeline(NEGATIVE, negatives, second, request, steps)
        texts |= more
    is_plain = len(parts) == 1 and is_even and len(texts) == len({POSITIVE, NEGATIVE} & texts.keys())
    guider = guidance if is_plain else Composition(guidance, tuple(parts), negative, tuple(sigmas), _calls(request))
    timelines = (*(timeline.names for timeline, _ in parts), negative.names)
    return Branches(guider, texts, frozenset(negative.names), timelines)


def check_one_text(branches: Branches) -> None:
    """Raise `ArgumentError` for a prompt of several texts: it changes from step to step, or has parts (AND)."""
    for name, own in branches.texts.items():
        first = branches.texts[NEGATIVE if name.startswith(NEGATIVE) else POSITIVE]
        for one, other in zip(first.prompts + first.prompts_2, own.prompts + own.prompts_2, strict=True):
            if one != other:
                raise ArgumentError(f"a prompt is several texts, such as {brief(one)} and {brief(other)}; give one")


def _seconds(request: Request) -> list[str] | None:
    """The prompts for the second text encoder; None for those of the first."""
    is_first = request.conventions.prompt_2 == "first" and request.prompt_2 == ""
    return None if is_first else _positives(request, "prompt_2")


def _negatives(request: Request) -> tuple[list[str] | None, list[str] | None]:
    """The negative prompts for both text encoders; None where none is given."""
    first, second = request.texts("negative_prompt"), request.texts("negative_prompt_2")
    if request.conventions.prompt_2 == "first":
        second = None if first is None or request.negative_prompt_2 == "" else second
    if request.conventions.empty_negative == "absent" and not any((*(first or ()), *(second or ()))):
        return None, None
    return first, second


def _parts(request: Request) -> list[tuple[list[str], list[float]]]:
    """The texts and weights of each prompt between its ANDs. A prompt of fewer parts than others has its first again,
    of weight 0.
    """
    if request.prompt_syntax != "a1111":
        return [(request.prompts, [1.0] * len(request.prompts))]
    alone = request.conventions.last_weight == "weight"
    split = [split_and(text, alone) for text in _positives(request, "prompt") or ()]
    for text, own in zip(request.prompts, split, strict=True):
        if len(own) == 1 and own[0][1] != 1:
            warn(
                f"the prompt {brief(text)} ends in a weight, {own[0][1]:g}, which guidance is multiplied with as in "
                "AUTOMATIC1111; with a comma behind it it is text"
            )
    count = max(map(len, split))
    rows = [[each[k] if k < len(each) else (each[0][0], 0.0) for each in split] for k in range(count)]
    return [([text for text, _ in row], [weight for _, weight in row]) for row in rows]


def _positives(request: Request, name: str) -> list[str] | None:
    """A positive text of each prompt, without the tags that ask for LoRAs."""
    texts = request.texts(name)
    return texts if texts is None or request.prompt_syntax != "a1111" else [split_tags(text)[0] for text in texts]


def _timeline(
    name: str, prompts: Sequence[str], prompts_2: Sequence[str] | None, request: Request, steps: _Steps
) -> tuple[Timeline, dict[str, Texts]]:
    """The branches that follow each other where some of the prompts change."""
    rows = [_stretches(text, request, steps) for text in prompts]
    rows_2 = rows if prompts_2 is None else [_stretches(text, request, steps) for text in prompts_2]
    lasts = sorted({stretch.last for row in (*rows, *rows_2) for stretch in row})
    names = [name, *(f"{name} from step {last + 1}" for last in lasts[:-1])]
    texts = {
        own: Texts(tuple(_at(row, last) for row in rows), tuple(_at(row, last) for row in rows_2))
        for own, last in zip(names, lasts, strict=True)
    }
    return Timeline(tuple(names), tuple(lasts)), texts


def _stretches(text: str, request: Request, steps: _Steps) -> list[Stretch]:
    is_edited = request.prompt_syntax == "a1111"
    return stretches(text, steps.count, steps.before) if is_edited else [Stretch(text, steps.count)]


def _at(row: Sequence[Stretch], step: int) -> str:
    return next(stretch.text for stretch in row if step <= stretch.last)
