"""Jobs of many images: JSON lines, the folder of their images, and the engines that generate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exports import exports

if TYPE_CHECKING:
    from .engine import local as local
    from .engine import work as work
    from .folder import open_folder as open_folder
    from .job import parse_job as parse_job
    from .job import read_job as read_job
    from .opening import Opening as Opening
    from .opening import open_local as open_local
    from .ray_engine import ray_engine as ray_engine
else:  # a type checker that saw it would take any name
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "engine": ("local", "work"),
            "folder": ("open_folder",),
            "job": ("parse_job", "read_job"),
            "opening": ("Opening", "open_local"),
            "ray_engine": ("ray_engine",),
        },
    )
