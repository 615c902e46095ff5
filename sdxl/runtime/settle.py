"""How a network gets its weights: each layer is brought to its place before the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from ..models.clip import Layer
from ..models.layers import Conv2d, Linear, ResBlock
from ..models.unet import GEGLU, TransformerBlock
from .cuda_layers import quick
from .fp8 import Fp8Linear, narrowed
from .int8 import quantized
from .memory import trim
from .onednn import packed
from .placement import Placement, has_pixels
from .rewrite import rewrite
from .scratch import cast, scratch
from .streamed import PLAIN, Change, Read, streamed
from .threads import share

HOLES = 16  # changed weights after which the memory between weights is given back
STREAMED = (Layer, ResBlock, TransformerBlock)  # after one of these the weights that were read are given back


def settle(
    model: nn.Module,
    state: Mapping[str, Tensor],
    placement: Placement,
    forget: Callable[..., None] = lambda *_: None,
    changes: Mapping[str, Change] | None = None,
    products: Mapping[str, Change] | None = None,
) -> nn.Module:
    """Give a network on the meta device its weights, ready to run: each layer is brought to its place before the next
    one, so that there are never two copies of all. Weights that are to be neither moved nor cast are not copied.

    `state` has views of a mapped file, and `forget` gives back the memory of those that are given to it, or of all.
    `products` make the weights that are not in the file as they are used, by the name of the weight; `changes` are
    applied to a weight in float32, before all else.
    """
    model.requires_grad_(False).eval().load_state_dict(state, assign=True)
    rule = _Settle(model, placement, forget, changes or {}, products or {})
    if placement.device.type == "cpu" and not placement.streamed and not changes:  # which take memory of their own
        _share(model, rule)
    else:
        rewrite(model, rule)
    if placement.device.type == "cuda":
        rewrite(model, quick)
    _clear(placement, rule)
    if placement.streamed and placement.device.type == "cpu":
        for module in model.modules():
            if isinstance(module, STREAMED):
                module.register_forward_hook(lambda *_: forget())
            if isinstance(module, TransformerBlock):  # keys and values of the context are computed outside of a block
                module.cross_attn.v.register_forward_hook(lambda *_: forget())
    return model


def settle_again(
    model: nn.Module,
    plain: nn.Module,
    state: Mapping[str, Tensor],
    placement: Placement,
    forget: Callable[..., None],
    changes: Mapping[str, Change],
    names: Iterable[str],
    products: Mapping[str, Change],
) -> None:
    """Bring the layers of a network that have weights of these names to their places again, and leave the others.

    `plain` is the same network on the meta device; the rest as in `settle`.
    """
    plain.requires_grad_(False).eval().load_state_dict(state, assign=True)
    rule = _Settle(plain, placement, forget, changes, products)
    wanted = {name.rpartition(".")[0] for name in names}

    def exchange(name: str, module: nn.Module) -> nn.Module | None:
        if rule.is_group(name, module):
            return None
        if wanted & {name, *(f"{name}.{own}" for own, _ in module.named_modules())}:
            new = rule(name, module) or module
            _put(model, name, (quick(name, new) if placement.device.type == "cuda" else None) or new)
        return module

    rewrite(plain, exchange)
    _clear(placement, rule)


def _share(model: nn.Module, rule: _Settle) -> None:
    """Bring all layers to their places, in several threads."""
    names: list[str] = []  # a layer itself may hold the memory of a product until another takes its place

    def collect(name: str, module: nn.Module) -> nn.Module | None:
        if rule.is_group(name, module):
            return None
        names.append(name)
        return module

    def bring(name: str) -> None:
        if (new := rule(name, model.get_submodule(name))) is not None:
            _put(model, name, new)

    rewrite(model, collect)
    list(share(bring, names))


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


def _clear(placement: Placement, rule: _Settle) -> None:
    """Give the memory back that loading took beside the weights."""
    scratch.clear()  # loading takes more of it than running, and may run in many threads
    if rule.reads and placement.device.type == "cpu":
        trim()  # products, and the intermediate results of changes, leave holes between the weights


class _Settle:
    """The rule that brings a layer to its place."""

    def __init__(
        self,
        model: nn.Module,
        placement: Placement,
        forget: Callable[..., None],
        changes: Mapping[str, Change],
        products: Mapping[str, Change],
    ) -> None:
        self.placement, self.forget, self.changes = placement, forget, changes
        self.reads = {name: Read(products.get(name), changes.get(name)) for name in {*products, *changes}}
        self.changed = 0
        kinds = (TransformerBlock, Layer) if placement.fp8 else (TransformerBlock,) if placement.int8 else ()
        self.in_8_bits = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, kinds))

    def __call__(self, name: str, module: nn.Module) -> nn.Module | None:
        """The layer that takes the place of a layer, after its weights were brought to theirs; None for a group."""
        if self.is_group(name, module):
            return None
        read = [parameter.data for parameter in module.parameters()]
        streams = self.placement.streamed and isinstance(module, (Linear, Conv2d))
        if not streams:
            self._read(name, module)
        new = self._replacement(name, module, streams)
        if new is None:
            self._move(name, module, streams)
            new = self._adapted(name, module)
        if read:
            self.forget(*read)
        return new

    def is_group(self, name: str, module: nn.Module) -> bool:
        """Whether the children of a module are brought to their places one by one."""
        is_one = isinstance(module, GEGLU) and self.placement.packed and not self._in_8_bits(name)
        return not is_one and next(module.children(), None) is not None

    def _in_8_bits(self, name: str) -> bool:
        return name.startswith(self.in_8_bits)

    def _read(self, name: str, module: nn.Module) -> None:
        for own, parameter in module.named_parameters():
            parameter.data = self._weight(f"{name}.{own}", parameter)
            if f"{name}.{own}" in self.changes:
                self.changed += 1
                if self.changed % HOLES == 0 and self.placement.device.type == "cpu":
                    trim()  # intermediate results leave holes between the weights

    def _weight(self, name: str, stored: Tensor) -> Tensor:
        """The weight that is used in place of a file's tensor."""
        return self.reads.get(name, PLAIN)(stored.data)

    def _replacement(self, name: str, module: nn.Module, streams: bool) -> nn.Module | None:
        """The layer in 8 bits or prepacked."""
        if not self._in_8_bits(name):
            return packed(module, self.placement.dtype) if self.placement.packed else None
        if self.placement.int8:
            return quantized(module, self.placement.arithmetic)
        return self._narrowed(name, module, streams) if isinstance(module, Linear) else None

    def _narrowed(self, name: str, layer: Linear, streams: bool) -> Fp8Linear:
        """The layer whose weight is kept in float8, where it lies."""
        at, weight = self.placement, layer.weight
        if layer.bias is not None:
            self._move_vector(f"{name}.bias", layer.bias, streams)
        if streams and at.device.type != "cuda":
            return Fp8Linear(layer, read=self.reads.get(f"{name}.weight", PLAIN))
        data = self._weight(f"{name}.weight", weight) if streams else weight.data
        weight.data, scale = narrowed(data.to(at.device))
        if streams:
            weight.data = weight.data.cpu().pin_memory()
        return Fp8Linear(layer, scale)

    def _move_vector(self, name: str, vector: nn.Parameter, streams: bool) -> None:
        data = self._weight(name, vector) if streams else vector.data
        vector.data = data.to(self.placement.device, self.placement.arithmetic)

    def _move(self, name: str, module: nn.Module, streams: bool) -> None:
        device, dtype = self.placement.device, self.placement.dtype
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 1:
                self._move_vector(f"{name}.{own}", parameter, streams)
            elif not streams:
                parameter.data = moved(parameter.data, device, dtype)
            elif device.type == "cuda":
                data = self._weight(f"{name}.{own}", parameter)
                parameter.data = moved(data, torch.device("cpu"), dtype).pin_memory()

    def _adapted(self, name: str, module: nn.Module) -> nn.Module | None:
        """The layer that fetches its weight, where that lies elsewhere or is in another dtype than the arithmetic."""
        at = self.placement
        if not at.streamed:
            return streamed(module) if at.dtype != at.arithmetic else None
        if at.device.type == "cuda":
            return streamed(module)
        return streamed(module, at.dtype, self.reads.get(f"{name}.weight", PLAIN))


def moved(weight: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A weight on another device and in another dtype; itself if it is there already."""
    if device.type == "cuda":
        layout = torch.channels_last if weight.ndim == 4 and has_pixels(device, dtype) else torch.preserve_format
        there = weight.to(device) if weight.itemsize <= dtype.itemsize else weight  # it is cast there: less time
        return there.to(device, dtype, memory_format=layout)
    if device.type != "cpu":
        return weight.to(device, dtype)
    return weight if weight.dtype == dtype else cast(weight, torch.empty(weight.shape, dtype=dtype))
