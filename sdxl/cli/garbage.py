"""Python's garbage collector, kept from looking through what stays.

Importing torch makes a quarter of a million objects. The search for cycles among them takes a sixth of the import, and
then a quarter of a short process: its end, where all of them are looked through again.
"""

from __future__ import annotations

import gc
import sys
from importlib import import_module


def import_whole(module: str) -> None:
    """Import a module that imports torch: meanwhile nothing is collected, and what there is then is never looked
    through again.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        import_module(module)
        gc.freeze()
    finally:
        gc.enable()


def leave() -> None:
    """At the end of a process, leave its objects to the system."""
    gc.freeze()
