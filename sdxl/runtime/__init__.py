"""Hardware: devices and dtypes, where weights lie, memory, and all that makes networks faster without changing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exports import exports

if TYPE_CHECKING:
    from .cuda_graph import compile_blocks as compile_blocks
    from .device import choose_device as choose_device
    from .device import choose_dtype as choose_dtype
    from .lazy import Lazy as Lazy
    from .placement import Placement as Placement
    from .placement import choose_placement as choose_placement
    from .precision import Precision as Precision
    from .rewrite import rewrite as rewrite
    from .settle import settle as settle
    from .streamed import Change as Change
    from .vae_strips import decode_strips as decode_strips
    from .vae_strips import encode_strips as encode_strips
else:  # a type checker that saw it would take any name
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "cuda_graph": ("compile_blocks",),
            "device": ("choose_device", "choose_dtype"),
            "lazy": ("Lazy",),
            "placement": ("Placement", "choose_placement"),
            "precision": ("Precision",),
            "settle": ("settle",),
            "rewrite": ("rewrite",),
            "streamed": ("Change",),
            "vae_strips": ("decode_strips", "encode_strips"),
        },
    )
