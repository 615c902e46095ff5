"""The weights in AUTOMATIC1111's tags of LoRAs, `<lora:name:text:unet>`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import ArgumentError, brief
from .editing import Tag

LORAS = ("lora", "lyco")
"""The kinds of tags that ask for a LoRA."""


@dataclass(frozen=True)
class TaggedLoRA:
    """The LoRA that a tag asks for: its name, the factors of its changes of the UNet and of the text encoders, and what
    is wrong with each value that has no effect.
    """

    name: str
    weight: float
    text_weight: float
    ignored: tuple[str, ...] = ()


def read_tag(tag: Tag) -> TaggedLoRA:
    """The LoRA of a tag: the first number is the text encoders' weight, the second the UNet's. Raises
    `ArgumentError`.
    """
    numbers, names, ignored = list[float](), dict[str, float](), list[str]()
    for value in tag.values:
        name, equals, number = value.rpartition("=")
        name = name.strip()
        if name == "dyn" or (not equals and len(numbers) == 2):
            ignored.append(f"{value} of <lora:{tag.name}> is ignored: the rank of a LoRA is not changed")
        elif name not in ("", "te", "unet"):
            ignored.append(
                f"{value} of <lora:{tag.name}> is ignored; its values are the text encoders' weight, te= and unet="
            )
        elif equals:
            names[name] = _number(number, tag)
        else:
            numbers.append(_number(value, tag))
    text = names.get("te", numbers[0] if numbers else 1.0)
    unet = names.get("unet", numbers[1] if len(numbers) > 1 else text)
    return TaggedLoRA(tag.name, unet, text, tuple(ignored))


def _number(text: str, tag: Tag) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentError(f"a weight of <lora:{tag.name}> is {brief(text)}; expected a number such as 0.8")
    return number
