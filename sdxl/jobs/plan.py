"""`plan.json`: which job a folder holds, and all that its images depend on and its command does not say."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, OutputError, brief
from ..images.output import write_file
from ..pipeline.defaults import NUMBER
from ..runtime.precision import Precision

_MOST = 1 << 16  # bytes


@dataclass(frozen=True)
class JobPlan:
    """The `fingerprint` of a job, the seed of its first image, and the precision that all of its processes compute in;
    no precision until the first of them has chosen. `defaults` is the number of the defaults of its images
    (`sdxl/pipeline/defaults.py`).

    Each field is a key of the file. One with a default may be absent, as in folders of older versions. A key that is no
    field is an error: images may depend on it.
    """

    job: str
    first_seed: int
    dtype: str | None = None
    arithmetic: str | None = None
    defaults: int = 0  # what the folders of version 0.1.0 do not say

    def __post_init__(self) -> None:
        if type(self.job) is not str or type(self.first_seed) is not int or self.first_seed < 0:
            raise ArgumentError(
                f"job is {brief(self.job)} and first_seed {brief(self.first_seed)}; expected a text and a whole number"
            )
        if type(self.defaults) is not int or not 0 <= self.defaults <= NUMBER:
            raise ArgumentError(f"defaults is {brief(self.defaults)}; expected 0 to {NUMBER}")
        if self.dtype is not None or self.arithmetic is not None:
            Precision(self.dtype or "", self.arithmetic or "")

    @property
    def precision(self) -> Precision | None:
        """The precision of the images."""
        return None if self.dtype is None or self.arithmetic is None else Precision(self.dtype, self.arithmetic)

    def with_precision(self, precision: Precision | None) -> JobPlan:
        """The same with the precision of its images."""
        dtype, arithmetic = (None, None) if precision is None else (precision.dtype, precision.arithmetic)
        return replace(self, dtype=dtype, arithmetic=arithmetic)


def read_plan(path: Path) -> JobPlan:
    """The plan in a file. Raises `OutputError`."""
    known = {each.name for each in fields(JobPlan)}
    try:
        with open(path, encoding="utf-8") as file:
            data: dict[str, Any] = json.loads(file.read(_MOST))
        if unknown := sorted(data.keys() - known):
            raise OutputError(
                f"{path} has {brief(unknown[0])}, which this version of sdxl does not know; go on with the version "
                "that wrote it, or choose another --output-dir"
            )
        return JobPlan(**data)
    except OSError as error:
        raise OutputError(f"{path} cannot be read ({error.strerror}); choose another --output-dir") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise OutputError(f"{path} is damaged ({brief(str(error))}); choose another --output-dir") from error


def write_plan(plan: JobPlan, path: Path) -> None:
    """Write a plan atomically, with the permissions that the umask leaves. Raises `OutputError`."""
    data = {name: value for name, value in asdict(plan).items() if value is not None}
    write_file(f"{json.dumps(data)}\n".encode(), path)
