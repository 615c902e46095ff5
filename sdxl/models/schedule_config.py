"""The noise that a model was trained with, as data. Imports no torch."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from ..errors import ConfigError
from .bounds import MOST_STEPS, bound


@dataclass(frozen=True)
class ScheduleConfig:
    """The noise schedule a model was trained with, and the sampler and schedule that its publisher recommends."""

    sampler: str = "euler"
    schedule: str = "leading"
    prediction: str = "epsilon"
    train_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    steps_offset: int = 1
    zero_terminal_snr: bool = False
    final_alpha_one: bool = False

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ConfigError(f"prediction_type is {self.prediction!r}; supported: epsilon, v_prediction")
        if self.beta_schedule not in ("scaled_linear", "linear"):
            raise ConfigError(f"beta_schedule is {self.beta_schedule!r}; supported: scaled_linear, linear")
        bound("num_train_timesteps", [self.train_steps], MOST_STEPS)
        bound("steps_offset", [self.steps_offset], self.train_steps - 1, least=0)
        bound("beta_end", [self.beta_end], 1 - 1e-9, least=1e-9)
        bound("beta_start", [self.beta_start], self.beta_end, least=1e-9)
        if self.train_steps * math.log1p(-self.beta_end) < math.log(sys.float_info.min):
            raise ConfigError(
                f"{self.train_steps} steps of betas up to {self.beta_end} leave nothing of an image; download its "
                "config again"
            )
