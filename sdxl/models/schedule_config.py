"""The noise that a model was trained with, as data. Imports no torch."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field, replace

from ..errors import ConfigError
from .bounds import MOST_STEPS, bound

PREDICTIONS = ("epsilon", "v_prediction", "sample", "edm")


@dataclass(frozen=True)
class EDM:
    """Noise levels of Karras et al. 2022 (arXiv 2206.00364, table 1): any sigma from `sigma_min` to `sigma_max`, whose
    timestep is ln(sigma) / 4. `sigma_data` is the standard deviation of the latents that the network expects. The
    defaults are Playground v2.5's.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        bound("sigma_max", [self.sigma_max], 1e6, least=1e-6)
        bound("sigma_min", [self.sigma_min], self.sigma_max, least=1e-6)
        bound("sigma_data", [self.sigma_data], 1e3, least=1e-3)


@dataclass(frozen=True)
class ScheduleConfig:
    """The noise schedule a model was trained with, and the sampler and schedule that its publisher recommends.

    `prediction` is one of `PREDICTIONS`: the noise, v, the clean sample, or EDM's F. With `edm` the noise levels are
    EDM's, else those of `train_steps` betas.

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
    edm: EDM | None = None
    schedule_is_stated: bool = field(default=True, compare=False)
    sampler_note: str = field(default="", compare=False)
    schedule_note: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ConfigError(f"prediction_type is {self.prediction!r}; supported: {', '.join(PREDICTIONS)}")
        if self.prediction == "edm" and self.edm is None:
            raise ConfigError(
                "prediction_type is 'edm' and no noise levels of EDM are stated; give its scheduler config"
            )
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

    @property
    def sigma_data(self) -> float:
        """The standard deviation of the latents that the network's input is scaled by."""
        return 1.0 if self.edm is None else self.edm.sigma_data

    def of_network(self, prediction: str, zero_terminal_snr: bool) -> ScheduleConfig:
        """The same for a network with another prediction type or terminal SNR. A schedule that no file states follows:
        without a signal at the last timestep, the steps begin there (Lin et al. 2023, arXiv 2305.08891, section 3.3).
        """
        schedule = self.schedule if self.schedule_is_stated else "trailing" if zero_terminal_snr else "leading"
        return replace(self, prediction=prediction, zero_terminal_snr=zero_terminal_snr, schedule=schedule)
