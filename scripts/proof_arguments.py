"""Proof: 5,000 random combinations of arguments on tiny models give a picture or a typed error, and nothing else."""

from __future__ import annotations

import os
import sys

import pytest

if __name__ == "__main__":
    os.environ["SDXL_EXAMPLES"] = "5000"
    sys.exit(pytest.main(["tests/test_arguments.py::test_a_picture_or_an_error", "-s", "--hypothesis-show-statistics"]))
