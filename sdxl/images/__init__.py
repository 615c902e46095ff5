"""Images: opening, masks, the window to generate, PNG files with their parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exports import exports

if TYPE_CHECKING:
    from .canvas import Canvas as Canvas
    from .image import open_mask as open_mask
    from .image import open_picture as open_picture
    from .pixels import to_pil as to_pil
    from .pixels import to_tensor as to_tensor
    from .png import read_parameters as read_parameters
    from .png import save_png as save_png

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "canvas": ("Canvas",),
        "image": ("open_mask", "open_picture"),
        "pixels": ("to_pil", "to_tensor"),
        "png": ("read_parameters", "save_png"),
    },
)
