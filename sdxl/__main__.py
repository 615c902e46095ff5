"""`python -m sdxl`, and the command `sdxl`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from .cli import garbage
from .cli.interrupts import install, status, uninstall


def run() -> int:
    """Run the command line in a process of its own; the exit status, which `sdxl --help` explains."""
    try:
        install()
        from .cli.allocator import use_tcmalloc

        use_tcmalloc()
        from .cli.quota import limit_threads

        limit_threads()
        if sys.platform == "linux" and "PYTORCH_ALLOC_CONF" not in os.environ:
            # read by torch when it is first imported: GPU memory in segments that grow, so that little of it is lost
            os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        from .cli.main import main

        return main()
    except KeyboardInterrupt:  # outside of the work itself
        uninstall()
        with suppress(OSError):  # the terminal is closed
            os.write(2, b"interrupted\n")
        return status()
    finally:
        uninstall()
        garbage.leave()


if __name__ == "__main__":
    sys.exit(run())
