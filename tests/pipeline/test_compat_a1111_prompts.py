"""`compat="a1111"`: prompts that change, and weights at their ends, against AUTOMATIC1111's rules restated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import comfyui
import pytest
import torch
from test_compat_a1111 import IDS, LATENT, SIZE, TOLERANCE, Table, plan_of, restated, zeros

import sdxl
from sdxl.errors import SDXLWarning
from sdxl.sampling.guidance import NEGATIVE, POSITIVE

LONG = "very " * 24  # of two chunks
Text = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def model(reference_pipe: Any) -> comfyui.Model:
    own = comfyui.Model(reference_pipe)
    own.table = Table()
    return own


def by_call(
    model: comfyui.Model, texts: Sequence[Text], last: int, cfg: float = 5.0, negatives: Sequence[Text] = ()
) -> Callable[[torch.Tensor, float], torch.Tensor]:
    """A denoiser whose calls are counted from 0: the first text up to call `last`, then the second one."""
    calls, pairs = count(), [*zip(texts, negatives or [zeros(text) for text in texts], strict=True)]
    each = [model.denoiser(*pair, cfg, IDS) for pair in pairs]
    return lambda x, sigma: each[next(calls) > last](x, sigma)


def lengthened(model: comfyui.Model, text: Text) -> Text:
    """With the states of an empty chunk."""
    return torch.cat([text[0], model.encode([("", 1.0)])[0]], dim=1), text[1]


def expected(model: comfyui.Model, denoise: Any, sampler: str, steps: int) -> torch.Tensor:
    sigmas = restated("karras", steps + (sampler == "dpm_2"))
    sigmas = [*sigmas[:-2], 0.0] if sampler == "dpm_2" else sigmas
    noise = comfyui.on_a_card(7, (1, 4, 8, 8))
    return comfyui.sample(denoise, sampler, sigmas, noise(0, 0) * sigmas[0], noise)


# ---- what counts


@pytest.mark.parametrize(
    ("sampler", "when", "last"),
    [
        *(("dpmpp_2m", "0.5", 3), ("dpmpp_2m", "2", 2), ("dpmpp_2m", "0.0", -1)),
        # two calls in a step, also where steps are counted
        *(("dpm_2", "0.5", 6), ("dpm_2", "3", 3), ("dpmpp_2s_ancestral", "0.34", 4)),
    ],
)
def test_changes_count_calls(
    sampler: str, when: str, last: int, tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any
) -> None:
    """From 0 up to the number and with it; the parts are those of all calls that the steps would take."""
    texts = [model.encode([(f"a {word}", 1.0)]) for word in ("cat", "dog")]
    wanted = expected(model, by_call(model, texts, last), sampler, 6)
    own: dict[str, Any] = {"sampler": sampler, "schedule": "karras", "steps": 6, "seed": 7, "compat": "a1111"}
    found = tiny_pipe(f"a [cat:dog:{when}]", **own, **SIZE, **LATENT).images
    assert error(found, wanted) < TOLERANCE


def test_alternatives_begin_with_the_first_one_twice(tiny_pipe: sdxl.Pipeline) -> None:
    plan = plan_of(tiny_pipe, prompt="a [cat|dog]", sampler="euler")
    acting = [plan.branches.texts[plan.guider.branches(sigma)[-1]].prompts[0] for sigma in plan.sigmas[:-1]]
    assert acting == ["a cat", "a cat", "a dog", "a cat", "a dog"]


@pytest.mark.parametrize(
    ("when", "acting"), [("0.5", "cat cat cat cat"), ("0.2", "cat cat cat dog"), ("1", "cat cat dog dog")]
)
def test_image_to_image_counts_all_steps_from_its_first_one(when: str, acting: str, tiny_pipe: sdxl.Pipeline) -> None:
    """4 of 10 steps run: [cat:dog:0.5] stays cat."""
    own: dict[str, Any] = {"image": torch.zeros(1, 4, 8, 8), "strength": 0.3, "steps": 10, "sampler": "euler"}
    plan = plan_of(tiny_pipe, prompt=f"[cat:dog:{when}]", **own)
    found = [plan.branches.texts[plan.guider.branches(sigma)[-1]].prompts[0] for sigma in plan.sigmas[:-1]]
    assert found == acting.split()


def test_a_second_pass_goes_on_counting(tiny_pipe: sdxl.Pipeline) -> None:
    """Its numbers follow all calls of the first pass, and its parts are of its own: int(0.5 * 4) is 2."""
    own: dict[str, Any] = {"steps": 5, "hires": {"scale": 2, "steps": 4, "sampler": "euler"}, **SIZE}
    for sampler, whole in (("euler", 6), ("dpm_2", 11)):
        for when in ("1.25", str(whole)):
            plan = plan_of(tiny_pipe, prompt=f"[cat:dog:{when}]", sampler=sampler, **own).second
            assert plan is not None
            found = [plan.branches.texts[plan.guider.branches(sigma)[-1]].prompts[0] for sigma in plan.sigmas[:-1]]
            assert found == ["cat", "cat", "dog", "dog"]


# ---- the texts of a prompt


def test_texts_of_one_prompt_have_as_many_chunks(tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    """Empty ones are attended to. Parts of an AND are not made even."""
    expert = tiny_pipe.experts[0]
    plan = plan_of(tiny_pipe, prompt=f"[a cat:{LONG}:0.5] AND red")
    names = plan.guider.names
    found = expert.encode(plan, names)
    one, two = (found[name].contexts[0] for name in plan.branches.timelines[0])
    assert error(one[None], lengthened(model, model.encode([("a cat", 1.0)]))[0]) < 1e-5
    assert error(two[None], model.encode([(LONG, 1.0)])[0]) < 1e-5
    assert len(found["positive 2"].contexts[0]) == 77


def test_a_negative_prompt_that_is_empty_for_a_while_is_encoded(
    tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any
) -> None:
    plan = plan_of(tiny_pipe, negative_prompt="[blurry:0.5]")
    first, second = plan.branches.timelines[-1]
    found = tiny_pipe.experts[0].encode(plan, (first, second, POSITIVE))
    assert first == NEGATIVE
    assert error(found[first].context, model.encode([("", 1.0)])[0]) < 1e-5
    assert error(found[second].context, model.encode([("blurry", 1.0)])[0]) < 1e-5


# ---- a weight at the end


def test_a_weight_at_the_end_of_a_prompt(tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    """Without AND too: the guidance is as many times as strong. A warning says so."""
    text = model.encode([("a cat", 1.0)])
    wanted = expected(model, model.denoiser(text, zeros(text), 3.0 * 1.5, IDS), "dpmpp_2m", 4)
    own: dict[str, Any] = {"sampler": "dpmpp_2m", "schedule": "karras", "steps": 4, "seed": 7, "guidance_scale": 3.0}
    with pytest.warns(SDXLWarning, match=r"'a cat :1.5' ends in a weight, 1.5"):
        found = tiny_pipe("a cat :1.5", compat="a1111", **own, **SIZE, **LATENT).images
    assert error(found, wanted) < TOLERANCE


def test_a_number_at_the_end_is_text_without_the_profile(tiny_pipe: sdxl.Pipeline) -> None:
    plan = plan_of(tiny_pipe, prompt="a clock at 9:30", compat=None, prompt_syntax="a1111")
    assert plan.branches.texts[POSITIVE].prompts == ("a clock at 9:30",)
