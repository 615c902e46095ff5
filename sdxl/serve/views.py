"""Jobs, images and failures as JSON of our own routes."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from .job import Failure, Image, Job, State, progress


def job_view(job: Job) -> dict[str, Any]:
    """A job without the content of its images."""
    state = job.state
    return {
        "id": job.id,
        "status": state.status,
        "origin": job.work.origin,
        "model": job.work.model,
        "place": state.place if state.status == "queued" else None,
        **step_view(job, state),
        "created": job.created,
        "started": state.started,
        "ended": state.ended,
        "request": dict(job.work.given),
        "images": [image_view(image) for image in state.images],
        "warnings": list(state.warnings),
        "error": failure_view(state.failure),
    }


def step_view(job: Job, state: State) -> dict[str, Any]:
    """How far a job was at a state of it."""
    return {
        "stage": state.stage,
        "batch": state.batch,
        "batches": job.batches,
        "step": state.step,
        "steps": state.steps,
        "progress": round(progress(state, job.batches), 4),
        "seconds_left": state.seconds_left,
    }


def preview_url(preview: bytes | None) -> str | None:
    """A preview as a data URL; None where there is none."""
    return None if preview is None else "data:image/jpeg;base64," + b64encode(preview).decode()


def image_view(image: Image) -> dict[str, Any]:
    """An image with the arguments that make it again."""
    return {
        "name": image.name,
        "url": f"/api/files/{image.name}",
        "seed": image.seed,
        "width": image.width,
        "height": image.height,
        "request": dict(image.parameters["request"]),
    }


def failure_view(failure: Failure | None) -> dict[str, Any] | None:
    """Why a job failed, as errors have it."""
    if failure is None:
        return None
    return {"type": failure.type, "message": failure.message, "argument": failure.argument}
