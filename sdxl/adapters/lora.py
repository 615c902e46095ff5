"""A LoRA, or a relative, as a value of a request: which file, and how strongly. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, brief, is_number
from .statement import check_texts, from_object

MOST_LORAS = 64
"""Of a request: each changes all weights of the networks, which takes seconds."""


@dataclass(frozen=True)
class LoRA:
    """`file` is a path, or on the hub owner/name or owner/name/file. `weight` multiplies its change of the UNet,
    `text_weight` that of the text encoders (None: `weight`). Weights may be negative or above 1. With a `hash`, the
    sha256 of the file, another file is refused.
    """

    file: str | Path
    weight: float = 1.0
    text_weight: float | None = None
    hash: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.file, (str, Path)) or not str(self.file):
            raise ArgumentError(f"the file of a LoRA is {brief(self.file)}; expected a path or an id on the hub")
        for name in ("weight", "text_weight"):
            value = getattr(self, name)
            if value is None and name == "text_weight":
                continue
            if not is_number(value):
                raise ArgumentError(f"the {name} of LoRA {self.file} is {brief(value)}; expected a number such as 0.8")
            object.__setattr__(self, name, float(value))
        check_texts(self, f"LoRA {self.file}", ("hash",))

    def strength(self, component: str) -> float:
        """The factor of its changes of a component."""
        return self.weight if component == "unet" or self.text_weight is None else self.text_weight

    def record(self) -> dict[str, Any]:
        """As JSON has it; equal for equal values."""
        record: dict[str, Any] = {"file": str(self.file), "weight": self.weight}
        if self.text_weight is not None:
            record["text_weight"] = self.text_weight
        return record | ({} if self.hash is None else {"hash": self.hash})


def read_lora(value: Any) -> LoRA:
    """A LoRA from a path, a pair of path and weight, an object of JSON, or itself. Raises `ArgumentError`."""
    if isinstance(value, LoRA):
        return value
    if isinstance(value, (str, Path)):
        return LoRA(value)
    if isinstance(value, Mapping):
        return from_object(value, LoRA, "LoRA")
    if isinstance(value, Sequence) and len(value) == 2:
        return LoRA(value[0], value[1])
    raise ArgumentError(f"{brief(value)} is no LoRA; expected a path, (path, weight) or sdxl.LoRA(...)")


def read_loras(values: Any) -> tuple[LoRA, ...]:
    """A list of LoRAs, or one. Raises `ArgumentError`."""
    if isinstance(values, (str, Path, LoRA, Mapping)):
        return (read_lora(values),)
    if not isinstance(values, Sequence):
        raise ArgumentError(f"loras is {brief(values)}; expected a list such as ['style.safetensors']")
    if len(values) > MOST_LORAS:
        raise ArgumentError(f"loras has {len(values)} entries; expected at most {MOST_LORAS}. Try fewer, or merge them")
    if len(values) == 2 and isinstance(values[0], (str, Path)) and isinstance(values[1], (int, float)):
        raise ArgumentError(f"loras is {brief(values)}; expected a list. Try [({str(values[0])!r}, {values[1]})]")
    if any(isinstance(each, list) and not (len(each) == 2 and isinstance(each[1], (int, float))) for each in values):
        raise ArgumentError(
            "loras has a list for each prompt, and the images of one call share their LoRAs; call again for each, or "
            "give them in the lines of --batch FILE"
        )
    return tuple(map(read_lora, values))
