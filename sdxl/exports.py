"""The public names of a package, imported when they are first used: `import sdxl` and `--help` load no torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def exports(
    package: str, modules: Mapping[str, Sequence[str]], packages: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of `package`, whose modules define the names that `modules` lists. Its
    `packages` are attributes too, whether or not they are imported already; `import *` leaves them out.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name in packages:
            return import_module(f"{package}.{name}")
        module = sys.modules[package]
        if name not in homes:  # Python shows the nearest name beside the message
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=module)
        value = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(module, name, value)  # also where a module has the same name
        return value

    names = sorted(homes)
    return get, lambda: sorted({*names, *packages}), names
