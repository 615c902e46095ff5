"""An expert: a UNet with the text encoders that belong to it, loaded when they are first needed.

Base, inpainting model and refiner are values of it; the ensemble of the SDXL paper (section 2.5) is two of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.conditioned import Conditioning
from ..models.unet import UNet
from ..runtime.lazy import Lazy
from ..runtime.placement import Placement
from ..sampling.guidance import POSITIVE, unperturbed
from ..text.encode import Sizes, TextCache, TextStage, embed_sizes, encode_prompts
from ..weights.info import ModelInfo
from .encoding import Encoding
from .plan import Plan
from .prompts import Branches, Texts, reading_of

_Encoded = tuple[list[Tensor], Tensor]
"""The contexts (L, D) of prompts, and their pooled text (B, P)."""


def _are_said(texts: Texts, branches: Branches) -> list[bool]:
    """Which of the negative prompts say something, in these texts or in any that follow each other with them."""
    each = [branches.texts[name] for name in branches.negatives if name in branches.texts] or [texts]
    return [any(own.prompts[n] or own.prompts_2[n] for own in each) for n in range(len(texts.prompts))]


@dataclass(frozen=True)
class Expert:
    """`info` is the model that UNet and text encoders belong to, `placement` where they are. With a `cache` no text is
    encoded twice.
    """

    info: ModelInfo
    unet: Lazy[UNet]
    text: Lazy[list[TextStage]]
    placement: Placement
    cache: TextCache | None = None

    def load(self) -> None:
        """Load all of it now."""
        self.unet()
        self.text()

    def condition(self, plan: Plan) -> dict[str, Conditioning]:
        """The conditioning of each guidance branch, for all B images, as the UNet takes it."""
        at = self.placement
        return {
            branch: Conditioning(each.groups, each.vector, each.is_zero).to(at.device, at.arithmetic)
            for branch, each in self.encode(plan, plan.guider.names).items()
        }

    @torch.no_grad()
    def encode(self, plan: Plan, branches: Sequence[str]) -> dict[str, Encoding]:
        """The encoding of each guidance branch, for all B images. A negative prompt that was not given is zeros, or for
        models that were trained so the empty text.
        """
        texts = plan.branches.texts
        needed = {POSITIVE, *map(unperturbed, branches)}
        own = {
            name: self._encode(each, plan, name in plan.branches.negatives)
            for name, each in texts.items()
            if name in needed
        }
        positive = own[POSITIVE]
        if plan.request.conventions.prompt_changes == "calls":
            own = self._of_even_length(own, plan)
        encodings = {}
        for branch in branches:
            sizes = self._negative_sizes(plan) if branch in plan.branches.negatives else plan.sizes
            if (name := unperturbed(branch)) in texts:
                encodings[branch] = self._with_sizes(*own[name], sizes, False)
            elif self._has_zeros(plan):
                zeros = [torch.zeros_like(context) for context in positive[0]], torch.zeros_like(positive[1])
                encodings[branch] = self._with_sizes(*zeros, sizes, True)
            else:
                empty = ("",) * len(plan.request.prompts)
                encodings[branch] = self._with_sizes(*self._encode(Texts(empty, empty), plan, True), sizes, False)
        return encodings

    def _negative_sizes(self, plan: Plan) -> tuple[Sizes, ...]:
        return plan.refiner_negative_sizes if self.info.config.kind == "refiner" else plan.negative_sizes

    def _has_zeros(self, plan: Plan) -> bool:
        """Whether no negative prompt is zeros."""
        rule = plan.request.conventions.no_negative
        return self.info.zero_negative if rule == "model" else rule == "zeros"

    def _encode(self, texts: Texts, plan: Plan, is_negative: bool = False) -> _Encoded:
        rules, reading = plan.request.conventions, reading_of(plan.request)
        layers = plan.request.clip_skip or 0
        skip = 0 if is_negative and rules.clip_skip == "positive" else layers
        skips = (layers, 0) if layers and rules.clip_skip == "first" else skip
        if self.cache is not None:
            contexts, pooled = self.cache.encode(self.text, texts.prompts, texts.prompts_2, skips, reading)
        else:
            contexts, pooled = encode_prompts(self.text(), texts.prompts, texts.prompts_2, skips, reading)
        if not is_negative or rules.empty_negative == "encode" or not self._has_zeros(plan):
            return contexts, pooled
        kept = _are_said(texts, plan.branches)
        contexts = [context * is_kept for context, is_kept in zip(contexts, kept, strict=True)]
        return contexts, pooled * torch.tensor(kept, dtype=torch.bool, device=pooled.device)[:, None]

    def _of_even_length(self, encoded: Mapping[str, _Encoded], plan: Plan) -> dict[str, _Encoded]:
        """The encodings of branches, those that follow each other with empty chunks at the ends of the shorter ones."""
        even = dict(encoded)
        for names in plan.branches.timelines:
            each = [encoded[name] for name in names if name in encoded]
            lengths = [max(map(len, same)) for same in zip(*(contexts for contexts, _ in each), strict=True)]
            for name in names[: len(each)]:
                contexts, pooled = encoded[name]
                even[name] = [self._lengthened(*pair, plan) for pair in zip(contexts, lengths, strict=True)], pooled
        return even

    def _lengthened(self, context: Tensor, length: int, plan: Plan) -> Tensor:
        """A context (L, D) with those of empty chunks behind it."""
        if len(context) == length:
            return context
        (empty,), _ = self._encode(Texts(("",), ("",)), plan)
        return torch.cat([context, empty.repeat((length - len(context)) // len(empty), 1)])

    def _with_sizes(
        self, contexts: Sequence[Tensor], pooled: Tensor, sizes: Sequence[Sizes], is_zero: bool
    ) -> Encoding:
        """The text of each prompt beside the sizes of each of its images."""
        config, count = self.info.config, len(sizes) // len(contexts)
        contexts = tuple(context for context in contexts for _ in range(count))
        pooled = pooled.repeat_interleave(count, dim=0)
        numbers = [each.numbers(config.kind == "refiner") for each in sizes]
        embedded = torch.cat([embed_sizes(row, config.unet.size_dim) for row in numbers]).to(pooled)
        return Encoding(contexts, pooled, torch.cat([pooled, embedded], dim=1), is_zero)
