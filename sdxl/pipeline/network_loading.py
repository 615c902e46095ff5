"""From a component's files to its network in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import nn

from ..runtime.placement import Placement, weight_bytes
from ..runtime.settle import settle, settle_again
from ..runtime.streamed import Change
from ..weights.component import Component
from ..weights.keymap import TEXT, TEXT_2
from .stages import stage


def load(
    component: Component,
    placement: Placement,
    changes: Mapping[str, Change] | None = None,
    trainable: bool = False,
) -> nn.Module:
    """A component's network with its weights, ready to run or to be trained. `changes` are named without the component.

    `open_checkpoint` has checked the component; a missing weight would still be an error here.
    """
    model = component.build()
    with stage("loading", placement, component.name):
        state, products = component.stored_state()
        settle(model, state, placement, component.forget, changes, products)
    if trainable:
        for parameter in model.parameters():
            # those of a file are not the model's own, and rows in order can be saved
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
            parameter.requires_grad_(True)
    if not (placement.streamed and placement.device.type == "cpu"):
        component.close()
    return model


def check_files(components: Iterable[Component]) -> None:
    """Raise `CheckpointError` if a file was written to whose tensors the components' networks use where they lie."""
    for each in components:
        for file in (*each.weights.files, *(() if each.base is None else each.base.weights.files)):
            if file.in_use:
                file.check_unchanged()


def load_again(
    component: Component,
    placement: Placement,
    changes: Mapping[str, Change],
    network: nn.Module,
    weights: Collection[str],
) -> None:
    """Bring the layers of a component's loaded network that have some of its weights to their places again."""
    plain = component.build()
    state, products = component.stored_state()
    settle_again(network, plain, state, placement, component.forget, changes, weights, products)
    if not (placement.streamed and placement.device.type == "cpu"):
        component.close()


def component_bytes(component: Component, at: Placement) -> int:
    """The memory of a component's weights at a placement that does not stream them."""
    in_8_bits = component.block_shapes() if at.fp8 or (at.int8 and component.name not in (TEXT, TEXT_2)) else []
    return weight_bytes(component.shapes(), at.dtype, in_8_bits)
