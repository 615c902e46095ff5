"""What a UNet attends to beside its text: the images of references, encoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor, nn

from ..images.canvas import Canvas
from ..images.clip_pixels import clip_pixels
from ..images.image import resize_mask
from ..images.pixels import to_tensor
from ..models.ip_adapter import file_order
from ..models.layers import Source, split_heads
from ..models.unet_config import UNetConfig
from ..models.vision import VisionEncoder
from ..runtime.lazy import Lazy
from ..runtime.placement import Placement
from .extra_networks import Extra
from .finite import check_finite
from .model import Model
from .plan import Plan
from .references import ActiveReference
from .stages import stage
from .window import Window

Shown = tuple[str, ...]
"""Images side by side, by the hashes of their content; an empty one stands for no image, as negative rows see it."""
Encoded = tuple[Tensor, Tensor]
"""The hidden states (1, L, dim) and the embedding (1, projection_dim) of an image."""
KeysValues = list[tuple[Tensor, Tensor]]
"""(1, L, C) each, for every place of an adapter in the order of its file."""
Key = tuple[Extra, Extra, Shown]
Results = dict[Key, KeysValues]
"""By image encoder and adapter, and what they were shown."""
Pair = tuple[ActiveReference, Shown]
_NONE = ""


@dataclass(frozen=True)
class Attended:
    """The `sources` of each transformer block, in the order in which they run, for the steps of a window."""

    sources: Sequence[Sequence[Source]]
    window: Window


def attended(plan: Plan, model: Model) -> list[Attended]:
    """What the UNet of the first expert attends to in a plan: the references that act at all, in their order."""
    acting = [each for each in plan.references if each.acts_at_all]
    if not acting:
        return []
    with stage("reference", model.placement):
        found = _keys_values(acting, plan, model)
        return [Attended(_sources(each, plan, model, found), each.window) for each in acting]


# ---- images to keys and values


def _keys_values(references: Sequence[ActiveReference], plan: Plan, model: Model) -> Results:
    """Keys and values of all that the rows of a batch see."""
    results: Results = model.extras.results
    needed = {_key(each, shown): (each, shown) for each in references for shown in _rows(each, plan)}
    missing = [pair for key, pair in needed.items() if key not in results]
    encoded = _encode(missing, model)
    for adapter, pairs in _grouped(missing, lambda each: each.adapter).items():
        network = model.extra(adapter)
        with model.using(network):
            for reference, shown in pairs:
                inputs = [_input(reference, encoded, one, model) for one in shown]
                made: KeysValues = network()(inputs)
                total = torch.stack([keys.sum() + values.sum() for keys, values in made])
                check_finite(total, f"the IP-Adapter {reference.reference.adapter}", model.place(adapter))
                results[_key(reference, shown)] = made
    found = {key: results.pop(key) for key in needed}
    results |= found  # the last used ones come last
    for old in list(results)[: -max(model.extras.most_results, len(found))]:
        del results[old]
    return found


def _key(reference: ActiveReference, shown: Shown) -> Key:
    return reference.encoder, reference.adapter, shown


def _rows(reference: ActiveReference, plan: Plan) -> Iterator[Shown]:
    """What each row of the batch sees."""
    for branch in plan.guider.names:
        for hashes in reference.images.hashes:
            yield (_NONE,) * len(hashes) if branch in plan.branches.negatives else hashes


def _grouped(pairs: Iterable[Pair], network: Callable[[ActiveReference], Extra]) -> dict[Extra, list[Pair]]:
    """By one of their networks, so that each is loaded once."""
    groups: dict[Extra, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(network(pair[0]), []).append(pair)
    return groups


def _encode(missing: Sequence[Pair], model: Model) -> dict[tuple[Extra, str], Encoded]:
    """The images that are shown, and for plus adapters none, by their encoders and the hashes of the images."""
    encoded: dict[tuple[Extra, str], Encoded] = {}
    for encoder, pairs in _grouped(missing, lambda each: each.encoder).items():
        images: dict[str, Image | None] = {}
        for reference, shown in pairs:
            given = reference.images
            rows = zip(given.hashes, given.images, strict=True)
            own = {name: each for row in rows for name, each in zip(*row, strict=True)}
            images |= {one: own.get(one) for one in shown if one != _NONE or reference.config.is_plus}
        network, at = model.extra(encoder), model.place(encoder)
        with model.using(network):
            encoded |= {(encoder, one): _encode_one(network, image, at) for one, image in images.items()}
    return encoded


def _encode_one(network: Lazy[nn.Module], image: Image | None, at: Placement) -> Encoded:
    """An image by itself, so that what it gives depends on no other one; None is zeros behind the normalisation."""
    encoder = cast("VisionEncoder", network())
    side = encoder.config.image_size
    pixels = torch.zeros(1, 3, side, side, dtype=torch.float32) if image is None else clip_pixels(image, side)
    hidden, embedding = encoder(pixels.to(at.device, at.arithmetic))
    check_finite(hidden, "the image encoder", at)
    check_finite(embedding, "the image encoder", at)
    return hidden, embedding


def _input(reference: ActiveReference, encoded: Mapping[tuple[Extra, str], Encoded], one: str, model: Model) -> Tensor:
    """What the adapter takes of an image: for no image a plain one takes an embedding of zeros."""
    if one == _NONE and not reference.config.is_plus:
        at = model.place(reference.adapter)
        return torch.zeros(1, reference.config.image_dim, device=at.device, dtype=at.arithmetic)
    hidden, embedding = encoded[reference.encoder, one]
    return hidden if reference.config.is_plus else embedding


# ---- keys and values to sources


def _sources(reference: ActiveReference, plan: Plan, model: Model, found: Results) -> list[list[Source]]:
    """The sources of each transformer block; none where the scale is 0."""
    unet = model.info.config.unet
    rows = [found[_key(reference, shown)] for shown in _rows(reference, plan)]
    blocks = unet.block_names()
    places = {block: place for place, block in enumerate(file_order(blocks))}
    masks = _Masks(reference, plan, model)
    return [
        list(_block_sources([row[places[block]] for row in rows], scale, unet, block, masks)) if scale else []
        for block, scale in zip(blocks, reference.scales, strict=True)
    ]


def _block_sources(
    rows: Sequence[tuple[Tensor, Tensor]], scale: float, unet: UNetConfig, block: str, masks: _Masks
) -> Iterator[Source]:
    """The keys and values of a batch's rows for a block, those of neighbours of one length as one. The scale is that of
    the values, so that one recorded graph serves every scale.
    """
    level = unet.level_of(block)
    heads, first = unet.heads[level], 0
    for _, same in groupby(rows, lambda row: row[0].shape[1]):
        keys, values = (torch.cat(each) for each in zip(*same, strict=True))
        weight = masks.at(level, first, first + len(keys))
        yield Source(split_heads(keys, heads), split_heads(values * scale, heads), first, weight)
        first += len(keys)


class _Masks:
    """The mask of a reference at the levels of a UNet."""

    def __init__(self, reference: ActiveReference, plan: Plan, model: Model) -> None:
        self._size, self._levels = plan.latent_size, dict[int, Tensor]()
        self._at, self._branches = model.placement, len(plan.guider.names)
        mask = reference.images.mask
        canvases = plan.canvases or (None,)
        self._masks = None if mask is None else torch.stack([_work_mask(mask, each, plan.size) for each in canvases])
        self._repeats = len(plan.seeds) // len(canvases)

    def at(self, level: int, start: int, stop: int) -> Tensor | float:
        """The weight of rows `start` to `stop` of the batch, (R, 1, L, 1); 1 without a mask."""
        if self._masks is None:
            return 1.0
        if level not in self._levels:
            size = [-(-side // 2**level) for side in self._size]  # a side of odd length is halved upwards
            small = F.interpolate(self._masks, size, mode="bicubic").reshape(len(self._masks), 1, -1, 1)
            rows = small.repeat_interleave(self._repeats, dim=0).repeat(self._branches, 1, 1, 1)
            self._levels[level] = rows.to(self._at.device, self._at.arithmetic)
        return self._levels[level][start:stop]


def _work_mask(mask: Image, canvas: Canvas | None, size: tuple[int, int]) -> Tensor:
    """The mask (1, H, W) over the part of the image that is worked on."""
    if canvas is not None and canvas.box != (0, 0, *canvas.image.size):
        whole = resize_mask(mask, canvas.original_size, 0)
        mask = canvas.view(whole) if canvas.filled else whole.crop(canvas.box)
    return to_tensor(resize_mask(mask, size, 0))
