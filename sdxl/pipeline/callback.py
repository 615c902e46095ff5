"""The `callback` of a call: what it may be, and when it asks to stop."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..errors import ArgumentError, brief
from .result import PipelineStep

Callback = Callable[[PipelineStep], object]
"""Gets each step; True stops the call."""


def check_callback(callback: Any) -> None:
    """Raise `ArgumentError` for what cannot be called with a step, and for a coroutine function, which would never
    run.
    """
    if not callable(callback):
        raise ArgumentError(f"callback is {brief(callback)}; expected a function of one argument, the step")
    if inspect.iscoroutinefunction(callback):
        raise ArgumentError(
            "callback is a coroutine function; expected an ordinary one. Try one that hands the step over with "
            "loop.call_soon_threadsafe"
        )
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):  # some functions of C say nothing
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise ArgumentError(
            f"callback takes {', '.join(signature.parameters) or 'nothing'}; expected a function of one argument, the "
            "step, which has index, latents and denoised"
        ) from error


def stops(answer: object) -> bool:
    """Whether a callback asks to stop: by True, also numpy's or torch's. Raises `ArgumentError` for a dict."""
    if isinstance(answer, dict):
        raise ArgumentError(
            "callback gave a dict, as diffusers' callbacks do; expected True to stop, else nothing. Try a change in "
            "place, such as step.latents.add_(...)"
        )
    is_bool = str(getattr(answer, "dtype", None)) in ("bool", "torch.bool") and getattr(answer, "ndim", 1) == 0
    return answer is True or (is_bool and bool(answer))
