"""What a recording of networks depends on beside its inputs, so that it is never replayed when that has changed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode

_OWN = ("torch", __name__.partition(".")[0])  # the packages whose layers compute the same at every call


def fingerprint(networks: Iterable[nn.Module]) -> tuple[object, ...] | None:
    """The layers of networks, the places of their weights and torch's settings. None if the networks must run layer by
    layer: someone looks on (a hook, a mode of torch, autocast), or a layer or a method is neither torch's nor ours.
    """
    if _is_watched():
        return None
    found, waiting = [*_settings()], [*networks]
    while waiting:  # `modules()` and `parameters()` would take three times as long, at every step
        module = waiting.pop()
        if not _is_plain(module):
            return None
        found.append(module)  # itself and not its id, which another one could have later
        for tensors in (module._parameters, module._buffers):
            if tensors:
                found += [each.data_ptr() for each in tensors.values() if each is not None]
        if module._modules:
            waiting += [each for each in module._modules.values() if each is not None]
    return tuple(found)


def _is_watched() -> bool:
    """Whether something sees or changes each operation while it runs. Autocast keeps casts of weights for a while."""
    hooks: Any = nn.modules.module
    modes = [mode for mode in _get_current_function_mode_stack() if not isinstance(mode, DeviceContext)]
    return bool(
        modes
        or _get_current_dispatch_mode() is not None
        or hooks._global_forward_hooks
        or hooks._global_forward_pre_hooks
        or torch.is_autocast_enabled("cuda")
    )


def _settings() -> tuple[object, ...]:
    """Settings that choose among the kernels of a GPU."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    return (
        *(_float32(cuda.matmul, "allow_tf32"), _float32(cudnn, "allow_tf32")),
        *(cudnn.enabled, cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()),
        *(cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()),
        getattr(cuda, "cudnn_sdp_enabled", bool)(),  # since torch 2.5
    )


def _float32(backend: Any, name: str) -> object:
    """How exact products of float32 are, where torch says it: it has two ways, and the old one may not be mixed in."""
    try:
        return getattr(backend, "fp32_precision", None), getattr(backend, name)
    except RuntimeError:
        return getattr(backend, "fp32_precision", None)


def _is_plain(module: nn.Module) -> bool:
    """Whether a module computes what its class says, and nobody looks on."""
    own: dict[str, Any] = module.__dict__
    kind: Any = type(module)
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or not _is_own(kind, kind.forward):
        return False
    return own.keys().isdisjoint(_methods(kind))


@cache
def _is_own(kind: type[nn.Module], forward: Any) -> bool:
    """Whether a class and the method that it has now are torch's or ours."""
    return all(str(each.__module__).partition(".")[0] in _OWN for each in (kind, forward))


@cache
def _methods(kind: type[nn.Module]) -> frozenset[str]:
    """The methods that compute."""
    own = [name for each in kind.__mro__ if each not in nn.Module.__mro__ for name in vars(each) if name[:1] != "_"]
    return frozenset({"forward", *(name for name in own if callable(getattr(kind, name)))})
