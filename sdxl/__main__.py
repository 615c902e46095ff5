"""`python -m sdxl`."""

import os
import sys

from .cli.main import main

if sys.platform == "linux" and "PYTORCH_ALLOC_CONF" not in os.environ:
    # read by torch when it is first imported: GPU memory in segments that grow, so that little is lost between tensors
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

sys.exit(main())
