"""Which jobs may share a call: those that wait and ask for one image each, and differ in texts and seeds alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import SDXLError
from ..pipeline.argument_groups import SEEDS, TEXTS
from ..pipeline.tags import requested_loras
from .work import Work


def kind_of(work: Work) -> str | None:
    """Equal for works that may share a call; None for one that stands alone."""
    if len(work.batches) != 1 or work.bytes:
        return None
    arguments = work.batches[0]
    texts = [arguments.get(name) for name in TEXTS]
    if arguments.get("num_images", 1) != 1 or not all(isinstance(text, str | None) for text in texts):
        return None
    try:
        tags = [lora.record() for lora in requested_loras(arguments)]
        shared = {name: value for name, value in arguments.items() if name not in (*TEXTS, *SEEDS)}
        absent, varies = [text is None for text in texts], arguments.get("variation_seed") is None
        return json.dumps([work.model, shared, absent, varies, tags], sort_keys=True)
    except (SDXLError, TypeError):  # it fails when it is generated, and alone
        return None


def together(works: Sequence[Work]) -> dict[str, Any]:
    """The arguments of one call for works of one kind."""
    own: list[Mapping[str, Any]] = [work.batches[0] for work in works]
    listed = [name for name in (*TEXTS, *SEEDS) if own[0].get(name) is not None]
    return {**own[0], **{name: [each[name] for each in own] for name in listed}}
