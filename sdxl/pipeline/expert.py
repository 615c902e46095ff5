"""An expert: a UNet with the text encoders that belong to it, loaded when they are first needed.

Base, inpainting model and refiner are values of it; the ensemble of the SDXL paper (section 2.5) is two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from .prompts import Texts, reading_of


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
        positive = self._encode(texts[POSITIVE], plan)
        encodings = {}
        for branch in branches:
            is_negative = branch in plan.branches.negatives
            sizes = self._negative_sizes(plan) if is_negative else plan.sizes
            if (name := unperturbed(branch)) in texts:
                own = positive if name == POSITIVE else self._encode(texts[name], plan, is_negative)
                encodings[branch] = self._with_sizes(*own, sizes, False)
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

    def _encode(self, texts: Texts, plan: Plan, is_negative: bool = False) -> tuple[list[Tensor], Tensor]:
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
        kept = [bool(one or two) for one, two in zip(texts.prompts, texts.prompts_2, strict=True)]
        contexts = [context * is_kept for context, is_kept in zip(contexts, kept, strict=True)]
        return contexts, pooled * torch.tensor(kept, dtype=torch.bool, device=pooled.device)[:, None]

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
