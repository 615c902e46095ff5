"""What CLIP's text encoders and image encoders have in common: the config of a transformer. Imports no torch."""

from __future__ import annotations

from typing import Protocol

from ..errors import ConfigError
from .bounds import MOST_LAYERS, MOST_WIDTH, bound

ACTIVATIONS = ("quick_gelu", "gelu")


class TransformerConfig(Protocol):
    """The values of a transformer of CLIP; those of a text encoder without a projection have no `projection_dim`."""

    @property
    def dim(self) -> int: ...
    @property
    def ff_dim(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def activation(self) -> str: ...
    @property
    def norm_eps(self) -> float: ...
    @property
    def projection_dim(self) -> int | None: ...


def check_transformer(name: str, config: TransformerConfig) -> None:
    """Raise `ConfigError` for a transformer that cannot be; `name` says whose it is."""
    if config.activation not in ACTIVATIONS:
        raise ConfigError(f"the {name}'s hidden_act is {config.activation!r}; supported: {', '.join(ACTIVATIONS)}")
    bound(f"layers of the {name}", [config.layers], MOST_LAYERS)
    bound(f"heads of the {name}", [config.heads], MOST_WIDTH)
    projection = [] if config.projection_dim is None else [config.projection_dim]
    bound(f"widths of the {name}", (config.dim, config.ff_dim, *projection), MOST_WIDTH)
    bound(f"the {name}'s layer_norm_eps", [config.norm_eps], 1, least=0)
    if config.dim % config.heads:
        raise ConfigError(
            f"the {name}'s {config.dim} channels do not divide into {config.heads} heads; download its config again"
        )
