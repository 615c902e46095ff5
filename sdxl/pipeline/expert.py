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
from ..sampling.guidance import NEGATIVE
from ..text.encode import Sizes, TextCache, TextStage, embed_sizes, encode_text
from ..weights.info import ModelInfo
from .encoding import Encoding
from .plan import Plan


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
            branch: Conditioning(each.context, each.vector, each.is_zero).to(at.device, at.arithmetic)
            for branch, each in self.encode(plan, plan.guider.names).items()
        }

    @torch.no_grad()
    def encode(self, plan: Plan, branches: Sequence[str]) -> dict[str, Encoding]:
        """The encoding of each guidance branch, for all B images: of the negative prompt for the negative branch, else
        of the prompt.
        """
        request = plan.request
        prompts, skip = request.prompts, request.clip_skip or 0
        positive = self._encode(prompts, request.texts("prompt_2") or prompts, skip)
        encodings = {}
        for branch in branches:
            if branch == NEGATIVE:
                pair, is_zero = self._encode_negative(plan, positive)
                encodings[branch] = self._with_sizes(*pair, plan.negative_sizes, is_zero)
            else:
                encodings[branch] = self._with_sizes(*positive, plan.sizes, False)
        return encodings

    def _encode_negative(self, plan: Plan, positive: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], bool]:
        """Context and pooled text of the negative prompts, and whether they are zeros."""
        request = plan.request
        negatives, second = request.texts("negative_prompt"), request.texts("negative_prompt_2")
        if negatives is None and second is None and self.info.zero_negative:
            context, pooled = positive
            return (torch.zeros_like(context), torch.zeros_like(pooled)), True
        negatives = negatives if negatives is not None else [""] * len(request.prompts)
        return self._encode(negatives, negatives if second is None else second, request.clip_skip or 0), False

    def _encode(self, prompts: Sequence[str], prompts_2: Sequence[str], skip: int) -> tuple[Tensor, Tensor]:
        if self.cache is not None:
            return self.cache.encode(self.text, prompts, prompts_2, skip)
        return encode_text(self.text(), prompts, prompts_2, skip)

    def _with_sizes(self, context: Tensor, pooled: Tensor, sizes: Sequence[Sizes], is_zero: bool) -> Encoding:
        """The text of each prompt beside the sizes of each of its images."""
        config = self.info.config
        context, pooled = (part.repeat_interleave(len(sizes) // len(part), dim=0) for part in (context, pooled))
        numbers = [each.numbers(config.kind == "refiner") for each in sizes]
        embedded = torch.cat([embed_sizes(row, config.unet.size_dim) for row in numbers]).to(pooled)
        return Encoding(context, pooled, torch.cat([pooled, embedded], dim=1), is_zero)
