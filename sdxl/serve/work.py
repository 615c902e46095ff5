"""What a job is to generate: the arguments of a client, checked by `Request` and by the limits of the service.

Each field of `Request` is read by what it holds. A field that may name a file is refused unless it is in `_READERS`,
which turn names and uploads into what the field takes: no client opens a path of this machine.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ..adapters.control import read_controls
from ..adapters.lora import read_loras
from ..adapters.reference import read_references
from ..errors import ArgumentError, brief
from ..pipeline.aliases import advice
from ..pipeline.argument_groups import SEEDS, TEXTS
from ..pipeline.hires import Hires, read_hires
from ..pipeline.request import Request
from .catalog import Catalog
from .refusals import TooLargeError
from .settings import Settings
from .uploads import Upload

if TYPE_CHECKING:
    from ..pipeline.plan import Plan

_PLAIN = (str, int, float, dict)  # types of fields that name no file
_OF_HIRES = ("prompt", "negative_prompt")
_MOST_IMAGES = 16  # of the largest ones, which a job may have together
_LETTERS = 64  # of a name that an error shows
_SHOWN = 100_000  # characters of texts that a job shows again


@dataclass(frozen=True)
class Work:
    """`batches` are the arguments of a call each, one after the other; none of them: the model is loaded, no more.
    `model` is its name in the catalog. `origin` is the skin that asks, `given` what a client can send to ask again.
    """

    batches: tuple[Mapping[str, Any], ...]
    model: str
    origin: str = "api"
    session: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The memory of its uploads, which the batches share."""
        first = self.batches[0].values() if self.batches else ()
        return sum(len(each.data) for value in first for each in _uploaded(value))


def make_work(
    given: Mapping[str, Any],
    settings: Settings,
    catalog: Catalog,
    model: str,
    batches: int = 1,
    origin: str = "api",
    session: str | None = None,
) -> Work:
    """The work of the fields of `Request` that are given, `batches` times with the next seeds. Images are `Upload`s.
    Raises `ArgumentError` and `UnknownError`.
    """
    arguments = _arguments(given, catalog)
    _check_texts(arguments, settings.letters)
    check_pixels([each for value in arguments.values() for each in _uploaded(value)], settings)
    if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
        raise ArgumentError(f"batches is {brief(batches)}; expected a whole number of at least 1")
    request = Request(**arguments)
    if request.count * batches > settings.max_images:
        prompts = f" for {len(request.prompts)} prompts" if len(request.prompts) > 1 else ""
        several = f" in {batches} batches" if batches > 1 else ""
        raise ArgumentError(
            f"num_images is {request.num_images}{prompts}{several}; this service generates at most "
            f"{settings.max_images} images in a job, ask again for more"
        )
    check_limits(request.steps, request.levels, request.height, request.width, settings)
    if request.hires is not None:
        _check_hires(read_hires(request.hires), request, settings)
    return Work(
        tuple(_batches(arguments, request, batches)),
        catalog.model(model),
        origin,
        session,
        _shown(given) | ({"batches": batches} if batches > 1 else {}),
    )


def check_limits(
    steps: int | None, levels: Sequence[float] | None, height: int | None, width: int | None, settings: Settings
) -> None:
    """Raise `ArgumentError` for more steps or pixels than the service generates."""
    count = max(steps or 0, len(levels or ()) - 1)
    if count > settings.max_steps:
        raise ArgumentError(f"steps is {count}; this service takes at most {settings.max_steps}")
    if (height or 1) * (width or 1) > settings.max_pixels:
        raise ArgumentError(
            f"width is {width or '?'} and height is {height or '?'}; this service generates at most "
            f"{settings.max_pixels} pixels, give smaller ones"
        )


def check_pixels(uploads: Sequence[Upload], settings: Settings) -> None:
    """Raise `TooLargeError` for images that take too much memory together, when all are decoded."""
    pixels, most = sum(each.pixels for each in uploads), _MOST_IMAGES * settings.image_pixels
    if pixels > most:
        raise TooLargeError(f"the images have {pixels} pixels together; expected at most {most}. Make them smaller")


def _check_hires(hires: Hires, request: Request, settings: Settings) -> None:
    """The same for the second pass, as far as the request says its size."""
    size: tuple[int | None, int | None] = (None, None)
    if hires.size is not None or (request.height is not None and request.width is not None):
        size = hires.enlarged((request.height or 1, request.width or 1), 1)[1]
    with _second_pass():
        check_limits(hires.steps, None, *size, settings)


@contextmanager
def _second_pass() -> Iterator[None]:
    try:
        yield
    except ArgumentError as error:
        raise ArgumentError(f"in the second pass of hires {error}") from error


def check_plan(plan: Plan, settings: Settings) -> None:
    """The same for what the model's defaults and the images of a request make of it."""
    first, *second = plan.passes
    _check_pass(first, settings)
    for each in second:
        with _second_pass():
            _check_pass(each, settings)


def _check_pass(plan: Plan, settings: Settings) -> None:
    check_limits(plan.request.steps, plan.sigmas, *plan.size, settings)
    for canvas in plan.canvases:
        check_limits(None, None, *canvas.result_size, settings)


def opened(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a batch with its uploads opened."""
    return {name: _opened(value) for name, value in arguments.items()}


def _opened(value: Any) -> Any:
    if isinstance(value, list):
        return [_opened(each) for each in value]
    if isinstance(value, dict):
        return {name: _opened(each) for name, each in value.items()}
    return value.open() if isinstance(value, Upload) else value


def _arguments(given: Mapping[str, Any], catalog: Catalog) -> dict[str, Any]:
    known, taken = {each.name for each in fields(Request)}, takes()
    arguments = {}
    for name, value in given.items():
        if name not in known:
            raise ArgumentError(f"{name[:_LETTERS]} is not an argument; {advice(name[:_LETTERS], taken)}")
        if value is None:
            continue
        if name in _READERS:
            arguments[name] = _READERS[name](name, value, catalog)
        elif name in taken:
            arguments[name] = value
        else:
            raise ArgumentError(f"{name} names a file, which this service does not take from clients; leave it out")
    if "prompt" not in arguments:
        raise ArgumentError("prompt is missing; give a text")
    return arguments


def takes() -> list[str]:
    """The fields that clients can give."""
    return [each.name for each in fields(Request) if each.name in _READERS or each.metadata["option"].type in _PLAIN]


def _uploads(name: str, value: Any, catalog: Catalog) -> list[Upload]:
    uploads = _listed(value)
    if not uploads or not all(isinstance(each, Upload) for each in uploads):
        raise ArgumentError(f"{name} is {brief(value)}; expected an image file")
    return uploads


def _loras(name: str, value: Any, catalog: Catalog) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise ArgumentError(f"{name} is {brief(value)}; expected a list such as [{{'file': 'style', 'weight': 0.8}}]")
    return [{**lora.record(), "file": str(catalog.find("lora", str(lora.file)))} for lora in read_loras(value)]


def _hires(name: str, value: Any, catalog: Catalog) -> dict[str, Any]:
    return read_hires(value).record()  # which names no file


def _controls(name: str, value: Any, catalog: Catalog) -> list[dict[str, Any]]:
    controls = []
    for each in read_controls(value):
        if not all(isinstance(image, Upload) for image in each.images):
            raise ArgumentError(f"the image of control {brief(each.net)} is no image; send one in base64")
        net = str(catalog.find("control", str(each.net)))
        controls.append({**each.record(), "net": net, "image": each.image})
    return controls


def _references(name: str, value: Any, catalog: Catalog) -> list[dict[str, Any]]:
    references = []
    for each in read_references(value):
        if each.encoder is not None:
            raise ArgumentError(
                f"reference {brief(each.adapter)} names an encoder; leave it out, the one that it needs is found"
            )
        masks = {} if each.mask is None else {"mask": each.mask}
        if not all(isinstance(one, Upload) for entry in (masks.values(), *each.images) for one in entry):
            raise ArgumentError(f"an image of reference {brief(each.adapter)} is no image; send one in base64")
        adapter = str(catalog.find("reference", str(each.adapter)))
        entries = [list(entry) for entry in each.images]  # a list in a list: images side by side
        image = entries if isinstance(each.image, (list, tuple)) else each.image
        references.append({**each.record(), "adapter": adapter, "image": image, **masks})
    return references


_READERS: Mapping[str, Callable[[str, Any, Catalog], Any]] = {
    "image": _uploads,
    "mask": _uploads,
    "loras": _loras,
    "hires": _hires,
    "control": _controls,
    "reference": _references,
}


def _check_texts(arguments: Mapping[str, Any], most: int) -> None:
    hires = arguments.get("hires") or {}
    named = [(name, arguments.get(name)) for name in TEXTS] + [
        (f"{name} of hires", hires.get(name)) for name in _OF_HIRES
    ]
    for name, value in named:
        texts = [each for each in _listed(value) if isinstance(each, str)]
        if (length := sum(map(len, texts))) > most:
            raise ArgumentError(f"{name} has {length} characters; this service reads at most {most}, shorten it")


def _batches(arguments: Mapping[str, Any], request: Request, count: int) -> list[dict[str, Any]]:
    """The arguments of each batch, with its seeds."""
    names = SEEDS if request.varies else SEEDS[:1]
    seeds = {name: _drawn(getattr(request, name)) for name in names}
    if several := [name for name in names if isinstance(seeds[name], list)]:
        if count > 1:
            raise ArgumentError(
                f"{several[0]} is a list, and there are {count} batches; give one seed, the next ones follow"
            )
        return [{**arguments, **seeds}]
    advances = names[-1]  # the images of a variation have one seed
    batches = [{**arguments, **seeds, advances: seeds[advances] + n * request.count} for n in range(count)]
    Request(**batches[-1])  # the last seed is in the range too
    return batches


def _drawn(seed: Any) -> Any:
    """A seed by lot where none is given."""
    return secrets.randbelow(2**32) if seed is None else seed


def _shown(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields without images."""
    shown = {name: value for name, value in given.items() if value is not None and not any(_uploaded(value))}
    return shown if sum(len(str(each)) for each in shown.values()) <= _SHOWN else {}


def _uploaded(value: Any) -> Iterator[Upload]:
    """The uploads in a value."""
    if isinstance(value, Upload):
        yield value
    elif isinstance(value, (list, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _uploaded(each)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
