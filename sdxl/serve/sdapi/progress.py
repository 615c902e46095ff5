"""How far the present job of this skin is. Clients wait for a progress of 0 and no jobs before they ask again."""

from __future__ import annotations

import time
from base64 import b64encode
from typing import Any

from ..engine import Engine
from ..job import Job
from ..views import preview_url

ORIGIN = "sdapi"
_LEAST, _MOST = 0.01, 0.99  # of a job that is neither to begin nor over


def mine(jobs: list[Job]) -> list[Job]:
    """The jobs of this skin that generate images."""
    return [job for job in jobs if job.work.origin == ORIGIN and job.batches]


def progress_view(engine: Engine, with_image: bool) -> dict[str, Any]:
    """`/sdapi/v1/progress`: all keys, whether there is a job or not."""
    job = next(iter([*mine(engine.running), *mine(engine.waiting)]), None)
    state = None if job is None else job.state
    preview = None if state is None or not with_image else state.preview
    return {
        "progress": 0.0 if job is None else _share(job),
        "eta_relative": 0.0 if state is None else state.seconds_left or 0.0,
        "state": {
            "skipped": job is not None and job.skipped is not None and job.skipped == job.state.batch,
            "interrupted": job is not None and job.is_cancelled,
            "stopping_generation": False,
            "job": "" if job is None else job.work.session or "",
            "job_count": 0 if job is None else job.batches,
            "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(job.created if job else None)),
            "job_no": 0 if state is None else state.batch,
            "sampling_step": 0 if state is None else state.step,
            "sampling_steps": 0 if state is None else state.steps,
        },
        "current_image": None if preview is None else b64encode(preview).decode(),
        "textinfo": None,
    }


def task_view(engine: Engine, task: str, with_image: bool) -> dict[str, Any]:
    """`/internal/progress`: the job that a client named by `force_task_id`, its newest."""
    found = mine(engine.jobs(task))
    job = found[-1] if found else None
    status = None if job is None else job.state.status
    is_over = job is not None and job.state.is_over
    is_active = status == "running"
    preview = job.state.preview if job is not None and is_active and with_image else None
    place = job.state.place if job is not None else 0
    return {
        "active": is_active,
        "queued": status == "queued",
        "completed": is_over,
        "progress": _share(job) if job is not None and is_active else None,
        "eta": job.state.seconds_left if job is not None and is_active else None,
        "live_preview": preview_url(preview),
        "id_live_preview": -1 if job is None or preview is None else job.state.batch * 1000 + job.state.step,
        "textinfo": None if is_active else f"In queue: {place + 1}" if status == "queued" else "Waiting...",
    }


def _share(job: Job) -> float:
    return round(min(max(job.progress, _LEAST), _MOST), 4)
