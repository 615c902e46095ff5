"""Proof: 5,000 random combinations of arguments on tiny models give a picture or a typed error, and nothing else."""

from __future__ import annotations

import os
import sys

import pytest

if __name__ == "__main__":
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    os.environ.update(quiet, SDXL_EXAMPLES="5000")
    sys.exit(pytest.main(["tests/test_arguments.py::test_a_picture_or_an_error", "-s", "--hypothesis-show-statistics"]))
