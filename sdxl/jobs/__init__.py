"""Jobs of many images: a file of JSON lines, the journal of a folder, and the engines that generate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exports import exports

if TYPE_CHECKING:
    from .engine import local as local
    from .engine import work as work
    from .job import read_job as read_job
    from .journal import open_folder as open_folder
    from .ray_engine import ray_engine as ray_engine

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "engine": ("local", "work"),
        "job": ("read_job",),
        "journal": ("open_folder",),
        "ray_engine": ("ray_engine",),
    },
)
