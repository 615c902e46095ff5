"""An expert: a UNet with the text encoders that speak to it, loaded when they are first asked for.

Base, inpainting model and refiner are values of it; the ensemble of the SDXL paper (section 2.5) is two of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor

from .checkpoint import Checkpoint, Description
from .clip import TextEncoder
from .conditioning import Sizes, TextMemo, TextStage, embed_sizes, encode_text
from .denoise import Conditioning
from .device import Placement, place, place_vae
from .keymap import TEXT, TEXT_2, UNET
from .keymap import VAE as VAE_NAME
from .plan import Plan
from .tokenizer import Tokenizer
from .unet import UNet
from .vae import VAE

T = TypeVar("T")


class Part(Generic[T]):
    """Something that is loaded when it is first asked for. `release` gives the memory back until the next time."""

    def __init__(self, load: Callable[[], T]) -> None:
        self._load = load
        self._lock = threading.RLock()  # it is loaded once, however many threads ask
        self._loaded: T | None = None
        self._changes: list[Callable[[T], object]] = []

    def __call__(self) -> T:
        """The part itself."""
        with self._lock:
            if self._loaded is None:
                loaded = self._load()
                for change in self._changes:
                    change(loaded)
                self._loaded = loaded
            return self._loaded

    def apply(self, change: Callable[[T], object]) -> None:
        """Call `change` with the part, now or when it is loaded, and whenever it is loaded again."""
        with self._lock:
            self._changes.append(change)
            if self._loaded is not None:
                change(self._loaded)

    def release(self) -> None:
        """Forget it; whoever still holds it keeps it alive."""
        with self._lock:
            self._loaded = None


@dataclass(frozen=True)
class Expert:
    """`about` is the model that UNet and text encoders belong to, `at` where they are. With a `memo` no text is encoded
    twice.
    """

    about: Description
    unet: Part[UNet]
    text: Part[list[TextStage]]
    at: Placement
    memo: TextMemo | None = None

    def load(self) -> None:
        """Load all of it now."""
        self.unet()
        self.text()

    @torch.no_grad()
    def condition(self, plan: Plan) -> tuple[Conditioning, Conditioning]:
        """Positive and negative conditioning of all B pictures, as the UNet takes them."""
        request = plan.request
        prompts, skip = request.prompts, request.clip_skip or 0
        context, pooled = self._encode(prompts, request.texts("prompt_2") or prompts, skip)
        negatives, second = request.texts("negative_prompt"), request.texts("negative_prompt_2")
        silent = negatives is None and second is None and self.about.zero_negative
        if silent:
            bad_context, bad_pooled = torch.zeros_like(context), torch.zeros_like(pooled)
        elif request.guidance_scale > 1:
            negatives = negatives if negatives is not None else [""] * len(prompts)
            bad_context, bad_pooled = self._encode(negatives, negatives if second is None else second, skip)
        else:
            bad_context, bad_pooled = context, pooled  # without guidance nobody looks at them
        return (
            self._condition(context, pooled, plan.sizes),
            replace(self._condition(bad_context, bad_pooled, plan.negative_sizes), silent=silent),
        )

    def _encode(self, prompts: Sequence[str], prompts_2: Sequence[str], skip: int) -> tuple[Tensor, Tensor]:
        if self.memo is not None:
            return self.memo.encode(self.text, prompts, prompts_2, skip)
        return encode_text(self.text(), prompts, prompts_2, skip)

    def _condition(self, context: Tensor, pooled: Tensor, sizes: Sequence[Sizes]) -> Conditioning:
        """The text of each prompt beside the sizes of each of its pictures."""
        config = self.about.config
        context, pooled = (part.repeat_interleave(len(sizes) // len(part), dim=0) for part in (context, pooled))
        numbers = [each.numbers(config.kind == "refiner") for each in sizes]
        embedded = torch.cat([embed_sizes(row, config.unet.size_dim) for row in numbers]).to(pooled)
        return Conditioning(context, torch.cat([pooled, embedded], dim=1)).to(self.at.device, self.at.arithmetic)


@dataclass(frozen=True)
class Loader:
    """Opened checkpoints, a model's and perhaps its refiner's, and what their networks are to be in."""

    checkpoints: Sequence[Checkpoint]
    device: torch.device
    dtype: torch.dtype
    int8: bool

    def parts(self, offload: str) -> tuple[list[Expert], Part[VAE]]:
        """The experts and the VAE for a way of keeping them in memory; nothing is loaded yet."""
        at = place(self.device, self.dtype, streamed=offload == "block", int8=self.int8)
        experts = [make_expert(each, at, stream_text=offload in ("text", "block")) for each in self.checkpoints]
        return experts, Part(lambda: cast(VAE, self.checkpoints[0].components[VAE_NAME].load(place_vae(at))))

    def bytes(self) -> list[int]:
        """What the weights of each network take up; with int8 what those of a UNet take at least."""
        parts = [part for each in self.checkpoints for part in each.components.values()]
        is_packed = place(self.device, self.dtype, int8=self.int8).packed
        return [part.bytes(self.dtype, is_packed, self.int8 and part.name == UNET) for part in parts]

    def text_bytes(self) -> int:
        """What those of the text encoders take up."""
        parts = [part for each in self.checkpoints for part in each.components.values()]
        return sum(part.bytes(self.dtype) for part in parts if part.name in (TEXT, TEXT_2))


def make_expert(checkpoint: Checkpoint, at: Placement, stream_text: bool = False) -> Expert:
    """The expert of an opened checkpoint; `stream_text` streams the text encoders, even if the UNet stays."""
    parts, about = checkpoint.components, checkpoint.about
    once = replace(
        at, packed=False, streamed=stream_text
    )  # a text encoder runs once for a picture: packing it costs more than it saves

    def load_text() -> list[TextStage]:
        about.check_ids()
        encoders = [(name, cast(TextEncoder, parts[name].load(once))) for name in (TEXT, TEXT_2) if name in parts]
        return [TextStage(Tokenizer(about.tokenizers[n], e.config.positions), e) for n, e in encoders]

    return Expert(about, Part(lambda: cast(UNet, parts[UNET].load(at))), Part(load_text), at)
