"""LoRAs that prompts ask for: AUTOMATIC1111's `<lora:name:text:unet>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..adapters.lora import MOST_LORAS, LoRA, read_loras
from ..errors import ArgumentError, warn
from ..text.editing import Tag, split_tags
from ..text.tags import LORAS, read_tag
from .profiles import conventions_of
from .request import Request

_TEXTS = ("prompt", "prompt_2")  # negative prompts are not scanned


def tagged_loras(request: Request) -> tuple[LoRA, ...]:
    """The LoRAs that the prompts of a request ask for, by name and without hashes; those of `prompt_2` behind those of
    `prompt`. Raises `ArgumentError` if the prompts ask for different ones.
    """
    return requested_loras({name: getattr(request, name) for name in ("prompt_syntax", *_TEXTS)})


def requested_loras(arguments: Mapping[str, Any]) -> tuple[LoRA, ...]:
    """The same from the arguments of a request."""
    if (arguments.get("prompt_syntax") or conventions_of(arguments.get("compat")).prompt_syntax) != "a1111":
        return ()
    texts = [_listed(arguments.get(name)) for name in _TEXTS]
    count = max(map(len, texts))
    rows = [_of_texts(own) for own in zip(*(each * (count // len(each)) for each in texts), strict=True)]
    if other := [row for row in rows if row != rows[0]]:
        raise ArgumentError(
            f"the prompts ask for different LoRAs, {_names(rows[0])} and {_names(other[0])}, and images of one call "
            "have the same; call again for each, or give them as lines of --batch FILE"
        )
    if len(rows[0]) > MOST_LORAS:
        raise ArgumentError(f"the prompt asks for {len(rows[0])} LoRAs; expected at most {MOST_LORAS}. Try fewer")
    return rows[0]


def _listed(text: str | Sequence[str] | None) -> list[str]:
    return [text or ""] if text is None or isinstance(text, str) else list(text)


def missing_loras(request: Request) -> tuple[LoRA, ...]:
    """Those of the tags that are not among the request's LoRAs already, as they are in the record of an image."""
    return _difference(tagged_loras(request), read_loras(request.loras or ()))


def untagged_loras(record: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The LoRAs of an image's recorded request without those that its prompt asked for: of another prompt. Raises
    `ArgumentError` for a record that is damaged.
    """
    if not record.get("loras"):
        return None
    own = {name: record[name] for name in ("prompt_syntax", "compat", *_TEXTS) if name in record}
    left = _difference(read_loras(record["loras"]), tagged_loras(Request(**{"prompt": "", **own})))
    return [lora.record() for lora in left] or None


def _of_texts(texts: Sequence[str]) -> tuple[LoRA, ...]:
    return tuple(lora for text in texts for tag in split_tags(text)[1] if (lora := _lora(tag)) is not None)


def _lora(tag: Tag) -> LoRA | None:
    """The LoRA of a tag. Warns of tags and values that have no effect."""
    if tag.kind not in LORAS:
        warn(f"<{tag.kind}:{tag.name}> in the prompt is ignored: only <lora:...> has an effect")
        return None
    found = read_tag(tag)
    for reason in found.ignored:
        warn(reason)
    return LoRA(found.name, found.weight, None if found.text_weight == found.weight else found.text_weight)


def _difference(loras: Sequence[LoRA], others: Sequence[LoRA]) -> tuple[LoRA, ...]:
    """LoRAs without others, each as often as it is there; hashes do not count."""
    left = [_plain(lora) for lora in others]
    found = []
    for lora in loras:
        if (plain := _plain(lora)) in left:
            left.remove(plain)
        else:
            found.append(lora)
    return tuple(found)


def _plain(lora: LoRA) -> tuple[str, float, float]:
    return str(lora.file), lora.weight, lora.weight if lora.text_weight is None else lora.text_weight


def _names(loras: Sequence[LoRA]) -> str:
    return " and ".join(f"{lora.file} of weight {lora.weight:g}" for lora in loras) or "none"
