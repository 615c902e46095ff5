"""Stable Diffusion XL, hand-written in PyTorch: `Pipeline`, `Request`, `inspect`, `convert`, `save_image`, the
errors.

Networks, samplers and the loader are public too, in `sdxl.models`, `sdxl.sampling`, `sdxl.weights` and the other
packages. Names are imported when they are first used, so `import sdxl` and the command line's help need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .exports import exports
from .version import __version__ as __version__

if TYPE_CHECKING:
    from . import adapters as adapters
    from . import errors as errors
    from . import images as images
    from . import jobs as jobs
    from . import models as models
    from . import pipeline as pipeline
    from . import runtime as runtime
    from . import sampling as sampling
    from . import text as text
    from . import training as training
    from . import weights as weights
    from .adapters.control import Control as Control
    from .adapters.inspection import inspect as inspect
    from .adapters.lora import LoRA as LoRA
    from .adapters.merging import convert as convert
    from .adapters.reference import Reference as Reference
    from .errors import ArgumentError as ArgumentError
    from .errors import CheckpointError as CheckpointError
    from .errors import ConfigError as ConfigError
    from .errors import DrawError as DrawError
    from .errors import ForkError as ForkError
    from .errors import HubError as HubError
    from .errors import NonFiniteError as NonFiniteError
    from .errors import OutOfMemoryError as OutOfMemoryError
    from .errors import OutputError as OutputError
    from .errors import SDXLError as SDXLError
    from .errors import SDXLWarning as SDXLWarning
    from .errors import UnsupportedError as UnsupportedError
    from .images.record import read_parameters as read_parameters
    from .images.record import save_image as save_image
    from .images.record import save_png as save_png
    from .pipeline.hires import Hires as Hires
    from .pipeline.model_request import ModelRequest as ModelRequest
    from .pipeline.pipeline import Pipeline as Pipeline
    from .pipeline.request import Request as Request
    from .pipeline.result import PipelineStep as PipelineStep
    from .pipeline.result import Result as Result
    from .pipeline.verify import Verification as Verification
    from .pipeline.verify import verify as verify
    from .sampling.guiders import APG as APG
    from .sampling.guiders import PAG as PAG
else:  # a type checker that saw it would take any name
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "adapters.control": ("Control",),
            "adapters.inspection": ("inspect",),
            "adapters.lora": ("LoRA",),
            "adapters.merging": ("convert",),
            "adapters.reference": ("Reference",),
            "errors": (
                "ArgumentError",
                "CheckpointError",
                "ConfigError",
                "DrawError",
                "ForkError",
                "HubError",
                "NonFiniteError",
                "OutOfMemoryError",
                "OutputError",
                "SDXLError",
                "SDXLWarning",
                "UnsupportedError",
            ),
            "images.record": ("read_parameters", "save_image", "save_png"),
            "pipeline.hires": ("Hires",),
            "pipeline.model_request": ("ModelRequest",),
            "pipeline.pipeline": ("Pipeline",),
            "pipeline.request": ("Request",),
            "pipeline.result": ("PipelineStep", "Result"),
            "pipeline.verify": ("Verification", "verify"),
            "sampling.guiders": ("APG", "PAG"),
            "version": ("__version__",),
        },
        packages=(
            "adapters",
            "errors",
            "images",
            "jobs",
            "models",
            "pipeline",
            "runtime",
            "sampling",
            "text",
            "training",
            "weights",
        ),
    )
