"""Images: opening, masks, the window to generate, files with their parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exports import exports

if TYPE_CHECKING:
    from .a1111 import parameters_text as parameters_text
    from .canvas import Canvas as Canvas
    from .control import fit_control as fit_control
    from .grids import differences as differences
    from .grids import grid as grid
    from .image import open_mask as open_mask
    from .image import open_picture as open_picture
    from .output import check_writable as check_writable
    from .parameters import NamedFile as NamedFile
    from .parameters import Parameters as Parameters
    from .parameters import Unmapped as Unmapped
    from .pixels import to_pil as to_pil
    from .pixels import to_tensor as to_tensor
    from .preprocess import PREPROCESSORS as PREPROCESSORS
    from .preprocess import preprocess_image as preprocess_image
    from .record import encode_image as encode_image
    from .record import read_parameters as read_parameters
    from .record import save_image as save_image
    from .record import save_png as save_png
else:  # a type checker that saw it would take any name
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "a1111": ("parameters_text",),
            "canvas": ("Canvas",),
            "control": ("fit_control",),
            "grids": ("differences", "grid"),
            "image": ("open_mask", "open_picture"),
            "output": ("check_writable",),
            "parameters": ("NamedFile", "Parameters", "Unmapped"),
            "pixels": ("to_pil", "to_tensor"),
            "preprocess": ("PREPROCESSORS", "preprocess_image"),
            "record": ("encode_image", "read_parameters", "save_image", "save_png"),
        },
    )
