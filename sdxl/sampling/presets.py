"""The families of models beside SDXL itself, most of them distilled: what each is run with. One table.

A preset fills in what a request leaves open. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..models.schedule_config import ScheduleConfig

DEFAULTS: Mapping[str, Any] = {"steps": 30, "guidance_scale": 5.0, "guidance_rescale": 0.0}
"""What a request that says nothing else is run with, whatever the model."""
FROM_THE_TOP = ("trailing", "sgm", "sgm_uniform", "simple")
"""The schedules that begin at the last timestep, where distilled models were trained."""
NO_PRESET = "none"
_MERGE = "fast_merge"


@dataclass(frozen=True)
class Preset:
    """A family of models. `settings` are fields of a request with the values that it takes by default. `title` names
    it; `pattern` finds it in a title or a file's name, in which `_` stands for every sign between words.

    Outside of `steps`, (least, most), of guidance up to `most_guidance` and of `schedules`, its images are noise or
    burnt. `prediction` is what its network predicts, where that differs from epsilon. `native_size` is the side of its
    images in pixels, where its files may not say so.
    """

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    pattern: str = ""
    steps: tuple[int, int] | None = None
    most_guidance: float | None = None
    schedules: tuple[str, ...] = ()
    prediction: str | None = None
    zero_terminal_snr: bool = False
    native_size: int | None = None

    def matches(self, text: str) -> bool:
        """Whether a title or a name is that of the family."""
        plain = re.sub(r"[^a-z0-9]+", "_", text.lower())
        return bool(self.pattern) and re.search(self.pattern, plain) is not None

    def noise(self, config: ScheduleConfig) -> ScheduleConfig:
        """The noise of a model of the family."""
        if self.prediction is None:
            return config
        if config.edm is not None:
            return replace(config, prediction=self.prediction)
        return config.of_network(self.prediction, self.zero_terminal_snr)

    def faults(self, request: Any) -> Iterator[str]:
        """A sentence for each setting of a resolved request that the family is not made for."""
        if self.steps is not None and not self.steps[0] <= request.steps <= self.steps[1]:
            least, most = self.steps
            wanted = f"{least}" if least == most else f"{least} to {most}"
            yield f"steps is {request.steps}; {self.title} was made for {wanted}. Try steps={self.settings['steps']}"
        scales = request.guidance_scale if isinstance(request.guidance_scale, tuple) else (request.guidance_scale,)
        if self.most_guidance is not None and max(scales) > self.most_guidance:
            yield (
                f"guidance_scale is {max(scales):g}; {self.title} was made for at most {self.most_guidance:g}. "
                f"Try guidance_scale={self.settings['guidance_scale']:g}"
            )
        if self.schedules and request.schedule not in (None, *self.schedules):
            yield (
                f"schedule is {request.schedule}; {self.title} was made for {', '.join(self.schedules)}. "
                f"Try schedule={self.settings['schedule']}"
            )


def _distilled(sampler: str, schedule: str, steps: int, guidance: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"sampler": sampler, "schedule": schedule, "steps": steps, "guidance_scale": guidance, **more}


def _one(timestep: int) -> dict[str, Any]:
    """A single step from pure noise, which the network takes for that of a timestep."""
    return {"sampler": "lcm", "steps": 1, "timesteps": [timestep], "guidance_scale": 0.0}


def _of_steps(
    title: str,
    pattern: str,
    steps: int,
    sampler: str,
    guidance: float = 0.0,
    most_guidance: float = 1,
    prediction: str | None = None,
) -> Preset:
    """A network for one number of steps, which its title and its file's name state."""
    return Preset(
        title.format(steps),
        _distilled(sampler, "trailing", steps, guidance),
        pattern.format(steps),
        (steps, steps),
        most_guidance,
        FROM_THE_TOP,
        prediction,
    )


_LIGHTNING = "SDXL-Lightning of {} steps", "lightning_{}_?steps?"
_HYPER = "Hyper-SD of {} steps", "hyper_?(sd_?)?(sd)?xl_{}_?steps?(_|$)(?!cfg)"
_HYPER_CFG = "Hyper-SD of {} steps with guidance", "hyper_?(sd_?)?(sd)?xl_{}_?steps?_?cfg"

PRESETS: dict[str, Preset] = {
    # ByteDance/SDXL-Lightning (Lin et al. 2024, arXiv 2402.13929)
    "lightning_1": _of_steps(*_LIGHTNING, 1, "euler", prediction="sample"),
    **{f"lightning_{steps}": _of_steps(*_LIGHTNING, steps, "euler") for steps in (2, 4, 8)},
    # ByteDance/Hyper-SD (Ren et al. 2024, arXiv 2404.13686)
    "hyper_unet_1": Preset("Hyper-SD's UNet of one step", _one(800), "hyper_?(sd)?xl_1_?steps?_unet", (1, 1), 1),
    "hyper_unified": Preset(
        "Hyper-SD's LoRA for 1 to 8 steps",
        _distilled("tcd", "lcm", 4, eta=1.0),
        "hyper_?(sd)?xl_1_?steps?_lora",
        (1, 8),
        1,
        ("lcm", "trailing"),
    ),
    **{f"hyper_{steps}": _of_steps(*_HYPER, steps, "ddim") for steps in (2, 4, 8)},
    **{f"hyper_cfg_{steps}": _of_steps(*_HYPER_CFG, steps, "ddim", 5.0, 8) for steps in (8, 12)},
    # tianweiy/DMD2 (Yin et al. 2024, arXiv 2405.14867)
    "dmd2_1": Preset("DMD2 of one step", _one(399), "dmd2_sdxl_1_?step", (1, 1), 1),
    "dmd2_4": Preset(
        "DMD2 of 4 steps", _distilled("lcm", "trailing", 4), "dmd_?2", (4, 8), 2, ("trailing", "sgm_uniform", "simple")
    ),
    # h1t/TCD-SDXL-LoRA (Zheng et al. 2024, arXiv 2402.19159)
    "tcd_lora": Preset(
        "TCD-LoRA", _distilled("tcd", "lcm", 4, eta=0.3), "(^|_)tcd(_|$)", (2, 50), 2, ("lcm", "trailing")
    ),
    # latent-consistency (Luo et al. 2023, arXiv 2310.04378 and 2311.05556)
    "lcm": Preset("LCM with guidance as an input", _distilled("lcm", "lcm", 4, 8.0), "", (1, 8), 13, ("lcm",)),
    "lcm_lora": Preset(
        "LCM-LoRA", _distilled("lcm", "lcm", 4, 1.0), "(^|_)lcm(_|$)", (1, 8), 2, ("lcm", *FROM_THE_TOP)
    ),
    # stabilityai/sdxl-turbo (Sauer et al. 2023, arXiv 2311.17042)
    "turbo": Preset(
        "SDXL Turbo",
        _distilled("euler_ancestral", "trailing", 1),
        "^sd_?xl_turbo",
        (1, 4),
        1,
        FROM_THE_TOP,
        native_size=512,
    ),
    # weights/adapters in this repository
    "two_steps": Preset(
        "the distilled miniature",
        _distilled("euler", "trailing", 2, 1.0),
        "^two_steps$",
        (1, 8),
        1,
        FROM_THE_TOP,
    ),
    # merges of community models with Turbo or Lightning, as their cards advise
    _MERGE: Preset(
        "a merge with a distilled model",
        _distilled("dpmpp_sde", "karras", 6, 2.0),
        "(^|_)(xl)?(turbo|lightning)|(turbo|lightning)(xl)?(_|$)",
        (4, 12),
        3,
    ),
    # playgroundai/playground-v2.5-1024px-aesthetic (Li et al. 2024, arXiv 2402.17245)
    "playground": Preset("Playground v2.5", {"steps": 50, "guidance_scale": 3.0}),
    # segmind/SSD-1B and Segmind-Vega (Gupta et al. 2024, arXiv 2401.02677)
    "ssd_1b": Preset("SSD-1B", {"guidance_scale": 9.0}),
    "vega": Preset("Segmind Vega", {"guidance_scale": 9.0}),
    "v_prediction": Preset("a model of v-prediction", prediction="v_prediction"),
    # Lin et al. 2023, arXiv 2305.08891, section 3.4
    "zero_snr": Preset(
        "a model of zero terminal SNR",
        {"guidance_rescale": 0.7},
        prediction="v_prediction",
        zero_terminal_snr=True,
    ),
}


@dataclass(frozen=True)
class Family:
    """The preset of a file, and by what it was recognised."""

    preset: str
    reason: str

    def __str__(self) -> str:
        return f"{self.preset} ({PRESETS[self.preset].title}: {self.reason})"


def by_text(text: str, reason: str, of_lora: bool = False) -> Family | None:
    """The family that a title or a file's name states. LoRAs of lightning and turbo are styles as often as not."""
    found = (name for name, each in PRESETS.items() if each.matches(text) and not (of_lora and name == _MERGE))
    return next((Family(name, reason) for name in found), None)
