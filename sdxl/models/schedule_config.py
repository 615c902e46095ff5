"""The noise that a model was trained with, as data. Imports no torch."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field, replace

from ..errors import ConfigError
from .bounds import MOST_STEPS, bound


@dataclass(frozen=True)
class ScheduleConfig:
    """The noise schedule a model was trained with, and the sampler and schedule that its publisher recommends.

    `schedule_is_stated` is false where no file recommends a schedule. `sampler_note` and `schedule_note` are sentences
    about a recommendation that is not supported, so that another one is the default.
    """

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
    schedule_is_stated: bool = field(default=True, compare=False)
    sampler_note: str = field(default="", compare=False)
    schedule_note: str = field(default="", compare=False)

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

    @property
    def notes(self) -> tuple[str, ...]:
        """The sentences about recommendations that are not supported."""
        return tuple(filter(None, (self.sampler_note, self.schedule_note)))

    def of_network(self, prediction: str, zero_terminal_snr: bool) -> ScheduleConfig:
        """The same for a network with another prediction type or terminal SNR. A schedule that no file states follows:
        without a signal at the last timestep, the steps begin there (Lin et al. 2023, arXiv 2305.08891, section 3.3).
        """
        schedule = self.schedule if self.schedule_is_stated else "trailing" if zero_terminal_snr else "leading"
        return replace(self, prediction=prediction, zero_terminal_snr=zero_terminal_snr, schedule=schedule)
