"""What an adapter file is, in words and numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..models.published import BASE, REFINER
from ..sampling.presets import Family
from ..weights.keymap import TEXT, component_rows
from ..weights.recognise import by_header, by_name
from .adapter import Adapter, trigger_words
from .family import WIDTHS, context_widths, foreign, stated
from .keys import BUNDLED
from .names import NameTable

# the beginnings of a module's name, and who writes such
_LAYOUTS = (
    (r"(unet\.)?lora_(unet_(input|middle|output)_blocks|unet_out_).*", "kohya, single-file names"),
    (r"(unet\.)?lora_(unet|te)\d?_.*", "kohya, diffusers names"),
    (r"lycoris_.*", "LyCORIS"),
    (r".*base_model\.model\..*", "PEFT"),
    (r".*\.processor\..*", "diffusers, attention processors"),
    (r"(diffusion_model|text_encoders)\..*", "ComfyUI"),
    (r".*", "diffusers"),
)


@dataclass(frozen=True)
class AdapterReport:
    """An adapter file: the model `family` it is for, the `layout` of its keys, the `kinds` of its modules, how many
    modules have each rank and alpha, and how many are in each component. `trigger_words` are those of its header,
    `embeddings` the words of textual inversions in it. `distilled` is the preset that its header or name shows, for a
    LoRA of a distilled model. `unknown` keys mean nothing, `ignored` ones are harmless.
    """

    path: Path
    kind: str
    layout: str
    kinds: dict[str, int]
    ranks: dict[int, int]
    alphas: dict[float, int]
    modules: dict[str, int]
    trigger_words: list[str]
    embeddings: list[str] = field(default_factory=list)
    distilled: Family | None = None
    unknown: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def report_adapter(adapter: Adapter) -> AdapterReport:
    """The report of an opened file, without a model to hold it against."""
    modules, strangers = _components(adapter)
    words = {match["word"] for key in adapter.bundled if (match := BUNDLED.fullmatch(key))}
    return AdapterReport(
        path=adapter.path,
        kind=_family(adapter, modules),
        layout=_layout(adapter),
        kinds=dict(adapter.kinds),
        ranks=dict(Counter(module.rank for module in adapter.modules if module.rank is not None)),
        alphas=dict(Counter(module.stated_alpha for module in adapter.modules if module.stated_alpha is not None)),
        modules=modules,
        trigger_words=trigger_words(adapter.file.metadata),
        embeddings=sorted(words),
        distilled=distilled(adapter),
        unknown=[*adapter.unknown, *strangers],
        ignored=[*adapter.ignored],
    )


def distilled(adapter: Adapter) -> Family | None:
    """The preset that an adapter's header or name shows."""
    return by_header(adapter.file.metadata, of_lora=True) or by_name(adapter.path, of_lora=True)


def _components(adapter: Adapter) -> tuple[dict[str, int], list[str]]:
    """How many modules are in each component of the base or the refiner, and the keys of those in neither."""
    tables = [NameTable(component_rows(config)) for config in (BASE, REFINER)]
    found = {module: [table.find(module.name) for table in tables] for module in adapter.modules}
    best = max((0, 1), key=lambda n: sum(targets[n] is not None for targets in found.values()))
    counts = Counter(target.component for targets in found.values() if (target := targets[best]) is not None)
    strangers = [module for module, targets in found.items() if targets[best] is None]
    return dict(counts), [key for module in strangers for key in module.roles.values()]


def _family(adapter: Adapter, modules: Mapping[str, int]) -> str:
    """The model it is for, by names that another model has, else by its context, else by what its header states."""
    # a text encoder may fit: Flux has one of SDXL's
    if modules.keys() <= {TEXT} and (other := foreign(adapter.file.shapes)) is not None:
        return other[0].removeprefix("a ")
    if widths := context_widths(adapter.file.shapes) & WIDTHS.keys():
        return WIDTHS[min(widths)].removeprefix("a ")
    name, _ = stated(adapter.file.metadata) or ("a LoRA of SDXL" if modules else "an unknown adapter", "")
    return name.partition(" ")[2]


def _layout(adapter: Adapter) -> str:
    """Who writes such names."""
    names = [module.name for module in adapter.modules]
    return next(layout for pattern, layout in _LAYOUTS if any(re.fullmatch(pattern, name) for name in names))
