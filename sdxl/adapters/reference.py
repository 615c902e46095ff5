"""A reference image as a value of a request: which IP-Adapter shows which image to the UNet, and how strongly.

Imports no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, brief, is_number
from ..weights.path import expanded
from .statement import check_texts, checked_numbers, read_values

Only = str | tuple[str, ...] | Mapping[str, float]
PRESETS = {"style": "up.0.attn.1", "layout": "down.2.attn.1"}
"""InstantStyle's blocks (arXiv 2404.02733)."""
_DIFFUSERS = {"down_blocks.": "down.", "up_blocks.": "up.", "mid_block": "mid", "attentions": "attn"}
DEFAULT_SCALE = 0.6
_MOST_SCALE = 10.0
_NUMBERS = {"scale": (-_MOST_SCALE, _MOST_SCALE), "start": (0.0, 1.0), "end": (0.0, 1.0)}


@dataclass(frozen=True)
class Reference:
    """`adapter` is an IP-Adapter: a path, a name in the folder `control_dir`, or owner/name/file on the hub. `image` is
    a path or a PIL image: one for all images, or a list with one for each; in place of an image a tuple of several,
    whose tokens stand side by side. `scale` is 0 for none to about 1.

    `only` names the part of the UNet that sees the image: "style", "layout", blocks such as up.0.attn.1 or mid, a tuple
    of these, or a mapping from them to scales in place of `scale`. `mask` is white where the image acts. It acts in the
    steps between the shares `start` and `end` of all steps. `encoder` is the image encoder, a file or a folder (None:
    the one that the adapter needs, found beside it, in `control_dir`, or on the hub). With a `hash`, the sha256 of the
    adapter, another file is refused, and with an `encoder_hash` another encoder; with an `image_hash`, another image is
    a warning.
    """

    adapter: str | Path
    image: Any = field(hash=False)
    scale: float = DEFAULT_SCALE
    only: Only | None = field(default=None, hash=False)
    mask: Any = field(default=None, hash=False)
    start: float = 0.0
    end: float = 1.0
    encoder: str | Path | None = None
    encoder_hash: str | None = None
    hash: str | None = None
    image_hash: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.adapter, (str, Path)) or not str(self.adapter):
            raise ArgumentError(f"the adapter of a reference is {brief(self.adapter)}; expected a path or a hub file")
        checked: dict[str, Any] = {"image": _images(self.image, self.adapter), "only": self._only()}
        checked |= checked_numbers(self, f"reference {self.adapter}", _NUMBERS)
        if self.encoder is not None and (not isinstance(self.encoder, (str, Path)) or not str(self.encoder)):
            raise ArgumentError(f"the encoder of reference {self.adapter} is {brief(self.encoder)}; expected a path")
        check_texts(self, f"reference {self.adapter}", ("encoder_hash", "hash", "image_hash"))
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _only(self) -> Only | None:
        """Names, or names with scales. Raises `ArgumentError`."""
        only: Any = self.only
        if only is None:
            return None
        if isinstance(only, str):
            only = _from_text(only)
        if isinstance(only, Mapping):
            numbers = {str(name): value for name, value in only.items()}
            for name, value in numbers.items():
                if not is_number(value) or abs(value) > _MOST_SCALE:
                    raise ArgumentError(
                        f"only of reference {self.adapter} has {brief(value)} for {brief(name)}; expected a scale such "
                        "as 0.6"
                    )
            return {name: float(value) for name, value in numbers.items()}
        names = [only] if isinstance(only, str) else only
        if not isinstance(names, Sequence) or not names or not all(isinstance(each, str) and each for each in names):
            raise ArgumentError(
                f"only of reference {self.adapter} is {brief(only)}; expected style, layout, blocks such as "
                "up.0.attn.1, or {block: scale}"
            )
        return names[0] if len(names) == 1 else tuple(names)

    @property
    def images(self) -> tuple[tuple[Any, ...], ...]:
        """The images: an entry for all, or one for each image to generate."""
        entries = self.image if isinstance(self.image, list) else [self.image]
        return tuple(each if isinstance(each, tuple) else (each,) for each in entries)

    def scales(self, blocks: Sequence[str]) -> list[float]:
        """The scale of each transformer block of a UNet, by their names. Raises `ArgumentError` for a name of none."""
        if self.only is None:
            return [self.scale] * len(blocks)
        names = (self.only,) if isinstance(self.only, str) else self.only
        parts = {_own(name): self.only[name] if isinstance(self.only, Mapping) else self.scale for name in names}
        for name, part in zip(names, parts, strict=True):
            if not any(_is_in(block, part) for block in blocks):
                known = sorted({block.split(".blocks.")[0] for block in blocks})
                raise ArgumentError(
                    f"only of reference {self.adapter} has {brief(name)}, and the UNet has no cross-attention there; "
                    f"expected style, layout, or parts of {', '.join(known)}"
                )
        # of several parts that a block is in, the smallest one
        own = [max((part for part in parts if _is_in(block, part)), key=len, default=None) for block in blocks]
        return [0.0 if part is None else parts[part] for part in own]

    def at(self, root: Path) -> Reference:
        """The same with paths that are relative to a folder; those of adapter and encoder where such a file is."""

        def beside(name: str | Path | None) -> str | Path | None:
            path = None if name is None else root / expanded(name)
            return path.absolute() if path is not None and os.path.exists(path) else name

        def one(image: Any) -> Any:
            if isinstance(image, (list, tuple)):
                return type(image)(map(one, image))
            if not isinstance(image, (str, Path)) or "\0" in str(image):
                raise ArgumentError(f"an image of reference {self.adapter} is {brief(image)}; give the path of a file")
            return (root / expanded(image)).absolute()

        return replace(
            self,
            adapter=beside(self.adapter) or "",
            image=one(self.image),
            mask=None if self.mask is None else one(self.mask),
            encoder=beside(self.encoder),
        )

    def record(self) -> dict[str, Any]:
        """As JSON has it; an image that is no path is null."""
        record: dict[str, Any] = {"adapter": str(self.adapter), "image": _record_images(self.image)}
        for each in fields(self)[2:]:
            value = getattr(self, each.name)
            if value != each.default:
                is_text = each.name in ("mask", "encoder")
                record[each.name] = _path(value) if is_text else list(value) if isinstance(value, tuple) else value
        return record | {"scale": self.scale}


def read_references(values: Any) -> tuple[Reference, ...]:
    """A list of references, or one: themselves, or objects of JSON. Raises `ArgumentError`."""
    return read_values(values, Reference, "reference")


def _from_text(text: str) -> Any:
    """The names of `style+layout`, or of `style:0.8+mid:0.3` with their scales."""
    parts = [part.partition(":") for part in text.split("+")]
    if not any(colon for _, colon, _ in parts):
        return tuple(name for name, _, _ in parts)
    try:
        return {name: float(scale) for name, _, scale in parts}
    except ValueError as error:
        raise ArgumentError(
            f"only is {brief(text)}; expected names as in style+layout, or style:0.8+mid:0.3"
        ) from error


def _own(name: str) -> str:
    """Our name of a part of the UNet, from InstantStyle's or diffusers'."""
    name = PRESETS.get(name, name)
    for theirs, ours in _DIFFUSERS.items():
        name = name.replace(theirs, ours)
    return re.sub(r"^mid\.attn\.0$", "mid", name.replace("transformer_blocks", "blocks"))


def _is_in(block: str, part: str) -> bool:
    return f"{block}.".startswith(f"{part}.")


def _images(value: Any, adapter: str | Path) -> Any:
    """Images in one form: lists of JSON within a list are tuples, and a list of one is its entry."""
    several = isinstance(value, list)
    entries = [tuple(each) if isinstance(each, (list, tuple)) else each for each in (value if several else [value])]
    flat = [image for each in entries for image in (each if isinstance(each, tuple) else (each,))]
    is_empty = not entries or any(each == () for each in entries if isinstance(each, tuple))
    if is_empty or any(image is None or (isinstance(image, str) and not image) for image in flat):
        raise ArgumentError(
            f"the image of reference {adapter} is {brief(value)}; give a path, a PIL image, a tuple of several, or a "
            "list with one for each image"
        )
    entries = [each[0] if isinstance(each, tuple) and len(each) == 1 else each for each in entries]
    return entries if len(entries) > 1 else entries[0]


def _path(value: Any) -> str | None:
    return str(value) if isinstance(value, (str, Path)) else None


def _record_images(value: Any) -> Any:
    """Paths as JSON has them. A tuple for all images is a list within a list, which a list for each of them is not."""
    if isinstance(value, tuple):
        return [[_path(each) for each in value]]
    if isinstance(value, list):
        return [[_path(one) for one in each] if isinstance(each, tuple) else _path(each) for each in value]
    return _path(value)
