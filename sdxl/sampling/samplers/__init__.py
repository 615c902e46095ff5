"""The samplers. Every `Sampler` that a module of this package defines is in the table, under the name that it has."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..sampler import Sampler, SamplerTable

SAMPLERS = SamplerTable()
for _module in iter_modules(__path__):
    for _name, _value in vars(import_module(f"{__name__}.{_module.name}")).items():
        if isinstance(_value, Sampler):
            SAMPLERS[_name] = _value
if not SAMPLERS:
    raise ImportError(f"{__name__} has no modules: what packed the program left them out. Try --collect-all sdxl")

__all__ = ["SAMPLERS"]
