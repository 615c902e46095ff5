"""What other tools do otherwise, as data: one value that says every convention, and the values of known tools.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import ArgumentError, brief
from ..sampling.samplers import SAMPLERS
from ..sampling.schedules import SCHEDULES
from ..text.grammars import EMPHASES, LONG_PROMPTS, SYNTAXES

AUTOMATIC = "automatic"
"""The default schedule that is each sampler's own, as in AUTOMATIC1111."""


@dataclass(frozen=True)
class Rule:
    """What a convention is about, and its values with what they mean; `words` is empty for one that is a number, a flag
    or a list. One that is not `shown` belongs to the replay of a single image.
    """

    about: str
    words: Mapping[str, str] = field(default_factory=dict)
    shown: bool = True


def _rule(about: str, default: Any = None, shown: bool = True, **words: str) -> Any:
    """A field with a `Rule` in its metadata under "rule". The first word is the default."""
    return field(
        default=next(iter(words)) if words else default, metadata={"rule": Rule(about, words, shown)}, kw_only=True
    )


def _names(about: str, names: Any, default: str | None) -> Any:
    """A field that is one of some names that are explained elsewhere, or None."""
    return field(default=default, metadata={"rule": Rule(about, dict.fromkeys(names, ""))}, kw_only=True)


@dataclass(frozen=True)
class Conventions:
    """All that tools do differently with the same weights, prompt and seed. The defaults are ours. Raises
    `ArgumentError`.
    """

    # ---- prompts
    prompt_syntax: str = _names("how prompts are read", SYNTAXES, "plain")
    emphasis: str | None = _names("how weights in prompts act; none: as the syntax has it", EMPHASES, None)
    long_prompt: str = _names("a prompt of more than 75 tokens", LONG_PROMPTS, "chunk")
    prompt_2: str = _rule(
        'a second prompt that is ""',
        given="it is the empty text; a negative one alone leaves the empty text to the first encoder",
        first="it is the first prompt; a negative one alone has no effect",
    )
    no_negative: str = _rule(
        "no negative prompt",
        model="zeros for context and pooled text where the model was trained so (base), else the empty text",
        encode="the empty text",
        zeros="zeros",
    )
    empty_negative: str = _rule(
        'a negative prompt that is ""', encode="the encoded empty text", absent="the same as no negative prompt"
    )
    last_weight: str = _rule(
        "a number behind a colon at the end of a prompt without AND (a cat:1.2)",
        text="text",
        weight="the weight of the prompt",
    )
    prompt_changes: str = _rule(
        "what counts where a prompt changes, as in [a:b:0.5]",
        steps="the steps that run, from 1",
        calls="calls of the network, from 0, so the first text has one more; a part is one of all steps asked for. A "
        "step has one call, or two (heun, dpm_2, dpm_2_ancestral, dpmpp_2s_ancestral, dpmpp_sde). The texts have as "
        "many chunks as the longest of them",
    )
    clip_skip: str = _rule(
        "what `clip_skip` counts for",
        both="both prompts and both text encoders",
        positive="the positive prompt",
        first="the first text encoder",
    )
    # ---- sizes
    negative_sizes: str = _rule(
        "the negative prompt's sizes",
        each="each that is not given takes the positive value",
        pair="used if original and target are both given, with the crop 0,0 if that is not; with an image and a base "
        "model each for itself, and the crop never; a refiner's crop is 0,0 if it is not given",
    )
    padded_sizes: str = _rule(
        "size conditioning with `mask_padding`",
        place="the window's true place in its image",
        work="as if the window were the image",
    )
    # ---- guidance
    guidance_off: str = _rule(
        "guidance scales that need one pass",
        at_most_1="1 and less",
        only_1="1; less than 1 is guided too",
    )
    rescale: str = _rule(
        "what `guidance_rescale` acts on",
        output="the outputs of the network",
        v="v, whatever the network predicts",
    )
    # ---- schedules and samplers
    schedule: str | None = _names("the default schedule; none: the model's", [AUTOMATIC, *SCHEDULES], None)
    schedules: str = _rule(
        "whose formula a schedule's name stands for",
        ours="[samplers.md](samplers.md)",
        diffusers="float32; with Euler's relatives karras, exponential and beta run between the ends of the model's "
        "own spacing, DPM++ and UniPC take n + 1 points and whole timesteps; lcm and tcd have the schedule lcm by "
        "default",
        comfyui="float32; linspace, sgm_uniform in log sigma; leading may have more steps than asked for",
        a1111="float32; as k-diffusion; beta is linear in sigma, kl_optimal ends above 0, leading as in ComfyUI, but "
        "with ddim it ends at timestep 1; lcm has the 50 timesteps that LCM was trained on",
    )
    samplers: str = _rule(
        "whose details a sampler has",
        ours="[samplers.md](samplers.md)",
        diffusers="the middle of a step of dpm_2_ancestral has its fraction, the last step of lms extrapolates; `eta` "
        "acts on ddim and tcd alone, and is 0 by default",
        sgm="the last step of lms extrapolates",
        comfyui="uni_pc of order 3 ends at 0.001, ddim ends at 0, with noise of its own for the known part of an image "
        "(seed + 1)",
        a1111="euler, heun and dpm_2 draw at every step, euler_ancestral not in the last one; that of lms extrapolates",
    )
    discard_penultimate: tuple[str, ...] = _rule("samplers whose last sigma but one is left out", ())
    timesteps: str = _rule(
        "the timestep that the UNet is given",
        schedule="the schedule's own, mostly with fractions",
        fractional="between whole ones in log sigma",
        nearest="the nearest whole one in log sigma, in float32",
        quantized="the nearest whole one, and its sigma",
    )
    alphas: str = _rule(
        "the alphas that the model's noise levels are computed from",
        exact="as they are",
        float32="rounded to float32, which moves the lowest levels by 1e-5, and with them the noise of SDE samplers",
    )
    zero_snr: str = _rule(
        "the last sigma with zero terminal SNR", sigma_4096="4096", sigma_4519="4518.8 (alpha 4.897e-8)"
    )
    start_scale: str = _rule(
        "the scale of the first noise, s being the first sigma",
        sampler="s for euler, euler_ancestral, heun, lms, dpm_2, dpm_2_ancestral and dpmpp_sde with linspace and "
        "trailing, else sqrt(1 + s^2)",
        spacing="the same, but karras, exponential, beta and given levels go by the model's own spacing; of `latents` "
        "in inpainting, with samplers that are not in that list, s is where the steps begin",
        root="sqrt(1 + s^2)",
        sigma="s (with ddim sqrt(1 + s^2))",
        highest="sqrt(1 + s^2) if s is the model's highest sigma, else s",
    )
    end_scale: str = _rule(
        "the result of a list whose last sigma s is above 0 (not ddim and tcd)",
        root="x / sqrt(1 + s^2)",
        one="x",
    )
    # ---- noise
    generators: str = _rule(
        "the first noise",
        each="each image has a generator of its own, with `seed + i`",
        batch="one generator with `seed` draws that of the whole batch at once; a list of different seeds is one for "
        "each image",
    )
    noise: str = _rule(
        "where the numbers come from",
        cpu="torch's generator on the CPU",
        philox="Philox, as on an NVIDIA card, computed on any device",
    )
    step_noise: str = _rule(
        "the noise of ancestral samplers and lcm",
        go_on="the generator of the first noise goes on",
        card="of a card: Philox, from the seed again for each model",
        cpu="of a CPU: a new generator for each model, with seed + 1",
        cpu_again="of a CPU before the end of 2025: with the seed itself, so that its first draw is the first noise",
    )
    ensd: int = _rule("added to the seed for the noise of the steps (ENSD), if not 0", 0)
    sde_noise: str = _rule(
        "the noise of the SDE samplers",
        tree="a Brownian path",
        fresh="new at each step, except for dpmpp_sde",
    )
    tree_noise: str = _rule("the numbers of that path", cpu="torch's, on the CPU", philox="Philox")
    tree_range: str = _rule(
        "between which sigmas that path runs",
        schedule="those of the whole schedule",
        run="those of the steps that this model takes",
    )
    second_pass: str = _rule(
        "the first noise of a second pass at a larger size",
        go_on="the generator of the first pass goes on",
        restart="a new generator with the same seed",
    )
    upscaler_input: str = _rule(
        "the channels of what a network enlarges before a second pass",
        rgb="red, green, blue, as the network was trained",
        bgr="blue, green, red",
    )
    # ---- an image as input
    image_size: str = _rule(
        "an image whose sides are no multiples of 8, without `width` and `height`",
        resized="floored to multiples of 8, with Lanczos",
        cut="cut from its middle",
        floor_64="floored to multiples of 64, bicubic",
    )
    alpha: str = _rule("transparent parts", white="white (of a mask: black)", dropped="as their colour says")
    control_image: str = _rule(
        "a control image of another shape than the work", cut="cut around its centre", stretched="stretched"
    )
    posterior: str = _rule(
        "the latents of an image",
        sample="a sample of the posterior, for each result",
        shared="a sample for each result; with a mask one for all results of an image, by the first generator",
        mean="the mean of the posterior",
    )
    strength: float = _rule("the default of `strength`", 0.3)
    mask_strength: float = _rule("the same with a mask (a refiner alone: without)", 1.0)
    strength_steps: str = _rule(
        "the steps that run, of n at `strength` d",
        part="the last int(n d)",
        sigmas="the last int((n + 1) d) sigmas",
        all="n: the last of int(n / d), all at d > 0.9999",
        one_more="the last int(n min(d, 0.999)) + 1 (with ddim two less, at least 1, and noise of one level more than "
        "they begin at); in a second pass as exactly",
        exactly="n (with ddim two less, at least 1): the last of int(n / min(d, 0.999))",
    )
    # ---- inpainting
    mask_size: str = _rule(
        "a mask at the size of the latents",
        corner="the pixel in the upper left corner",
        bilinear="bilinear, without antialiasing",
        bicubic="bicubic (PIL)",
    )
    grey: str = _rule(
        "grey in a mask",
        steps="repainted in a part of the steps",
        timesteps="the same, as timesteps count (ComfyUI's Differential Diffusion)",
        binary="black or white",
        blend="blended linearly",
    )
    inpaint_start: str = _rule(
        "where inpainting starts",
        noise="from noise alone at strength 1, else from the image with noise",
        latents="the same; from noise alone with `latents` too",
        image="from the image with noise",
    )
    known: str = _rule(
        "what keeps the known part in each step, with 4 channels",
        both="the denoiser's input and output have it; at strength 1 not the first input",
        always="both, always",
        output="its output has it",
    )
    known_9: bool = _rule("the same with 9 channels", False)
    hole: str = _rule("the hole of a mask before encoding, with 4 channels", image="the image", grey="grey")
    mask_window: str = _rule(
        "the window of `mask_padding`",
        stretched="stretched to the work's proportions where the image is too small for them; pasted back bicubically",
        filled="its fractions of a pixel are cut off, and greys count; it keeps its proportions between borders in the "
        "colours of its edges; pasted back with Lanczos, through greys in part",
    )
    grow_mask: int = _rule("pixels that a mask grows by", 0)
    paste: bool = _rule("the part that a mask keeps is pasted back, byte for byte", True)
    paste_grey: str = _rule(
        "the weight of the result at a grey of a mask, where it is pasted back",
        binary="0 or 1, as it is repainted",
        doubled="twice the grey's share, at most 1; as a filled window has it with `mask_padding`",
    )
    # ---- refiner, files
    hand_off: str = _rule(
        "the base's steps, of n at `refine_at` f",
        timestep="those at timesteps of at least round(1000 - 1000 f)",
        whole="the same, by the whole timesteps whose sigmas are nearest",
        steps="the first ceil(n f)",
        sigmas="all but the last int((1 - f) (n + 1)) - 1",
    )
    pixels: str = _rule("pixels", rounded="`x * 255`, rounded", cut="`x * 255`, the fraction cut off")
    # ---- what a single image of a batch needs to be made again
    batch: tuple[int, int, int] | None = _rule(
        "the number of an image in its batch, the size of the batch, and how many source images that has", shown=False
    )
    posterior_seed: int | None = _rule("the seed of the generator that drew a shared posterior", shown=False)

    def __post_init__(self) -> None:
        for each in fields(self):
            value, words = getattr(self, each.name), each.metadata["rule"].words
            if words and value not in (*words,) and not (value is None and each.default is None):
                raise ArgumentError(f"{each.name} of compat is {brief(value)}; expected one of {', '.join(words)}")
        self._check_numbers()
        samplers = self.discard_penultimate
        if not isinstance(samplers, (list, tuple)) or not all(name in SAMPLERS for name in samplers):
            raise ArgumentError(f"discard_penultimate of compat is {brief(samplers)}; expected names of samplers")
        object.__setattr__(self, "discard_penultimate", tuple(samplers))
        object.__setattr__(self, "batch", None if self.batch is None else tuple(self.batch))

    def _check_numbers(self) -> None:
        for name, most in (("strength", 1), ("mask_strength", 1), ("ensd", 2**32), ("grow_mask", 256)):
            value: Any = getattr(self, name)
            whole = name in ("ensd", "grow_mask")
            fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
            if not fits or not 0 <= value <= most:
                raise ArgumentError(f"{name} of compat is {brief(value)}; expected 0 to {most}")
        for name in ("known_9", "paste"):
            if not isinstance(getattr(self, name), bool):
                raise ArgumentError(f"{name} of compat is {brief(getattr(self, name))}; expected true or false")
        batch = self.batch
        if batch is not None and not (
            _are_whole(batch, 3) and batch[0] < batch[1] and batch[2] and not batch[1] % batch[2]
        ):
            raise ArgumentError(
                f"batch of compat is {brief(batch)}; expected the number of an image, the size of its batch and the "
                "number of its source images"
            )
        seed = self.posterior_seed
        if seed is not None and (not _are_whole([seed], 1) or not 0 <= seed < 2**64):
            raise ArgumentError(f"posterior_seed of compat is {brief(seed)}; expected a seed")


def _are_whole(value: Any, count: int) -> bool:
    is_list = isinstance(value, (list, tuple)) and len(value) == count
    return is_list and all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in value)
