"""A job worked on to its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sdxl
from sdxl.jobs.engine import local, work
from sdxl.jobs.folder import open_folder
from sdxl.jobs.job import Job


def finish(job: Job, pipe: sdxl.Pipeline, folder: Path) -> int:
    """Work on a job until it is done; how many images were made."""
    made = 0

    def counted(batches: Iterator[Any]) -> Iterator[Any]:
        nonlocal made
        for batch, outcome in local(pipe)(batches):
            made += len(batch.files)
            yield batch, outcome

    with open_folder(folder, job, 0) as opened:
        list(work(opened.batches(2), opened, counted))
    return made
