"""How the processes of a job open their model: all in one precision, whatever their machines prefer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import warn
from ..pipeline.pipeline import Pipeline
from ..runtime.placement import fastest
from ..runtime.precision import Precision
from .folder import JobFolder


@dataclass(frozen=True)
class Opening:
    """`choose` gives the precision that this machine would take, `open` the pipeline in a given one. `dtype` is that of
    the weights if the caller has asked for one.
    """

    choose: Callable[[], Precision]
    open: Callable[[Precision], Pipeline]
    dtype: str | None = None

    def preferred(self, pipe: Pipeline) -> Precision:
        """The precision that is fastest where a pipeline is."""
        return fastest(pipe.device, self.dtype)


def open_local(opening: Opening, folder: JobFolder) -> Pipeline:
    """The pipeline of this process, in the precision of the job."""
    precision = folder.agree(opening.choose)
    pipe = opening.open(precision)
    warn_of_others(precision, [opening.preferred(pipe)])
    return pipe


def warn_of_others(precision: Precision, preferred: Iterable[Precision]) -> None:
    """Warn where machines would have chosen another precision than the job has."""
    for other in sorted(set(preferred) - {precision}, key=str):
        warn(f"the job has {precision}, as its first images have; this machine would choose {other}")
