"""The one walker over the layers of a network: all that replaces layers is a rule for it."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

Rule = Callable[[str, nn.Module], nn.Module | None]
"""(name, module) to the module that takes its place, or None to leave it and to look at its children."""


def rewrite(model: nn.Module, rule: Rule, name: str = "") -> None:
    """Replace modules below `model` in place, each before its children, in the order in which they were defined."""
    for child_name, child in list(model.named_children()):
        full_name = f"{name}.{child_name}" if name else child_name
        new = rule(full_name, child)
        if new is None:
            rewrite(child, rule, full_name)
        else:
            setattr(model, child_name, new)
