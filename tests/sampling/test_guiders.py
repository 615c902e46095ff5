"""APG and PAG against their papers' formulas in float64 and against diffusers, a guidance scale for each step, and both
within composed prompts, inpainting, batches and a refiner.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny
import torch

import sdxl
from sdxl.errors import ArgumentError
from sdxl.models.conditioned import IdentityMap
from sdxl.sampling.guidance import NEGATIVE, PERTURBED, POSITIVE, Guidance, Scales, is_perturbed, perturbed, unperturbed
from sdxl.sampling.guiders import APG, PAG, read_guider, record_guider
from sdxl.sampling.prediction import make_point

PROMPT = "A mecha robot in a favela in expressionist style"
QUICK: dict[str, Any] = {"steps": 3, "seed": 5, "output": "latent", "progress": False, "height": 64, "width": 64}


def draws(count: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


# ---- formulas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "edm"])
@pytest.mark.parametrize(("eta", "norm", "momentum"), [(0, 15, -0.5), (0.3, 2.5, 0), (1, 0, 0), (0, 0, -0.75)])
def test_apg_is_the_papers(prediction: str, eta: float, norm: float, momentum: float) -> None:
    """Three steps, image by image, on the clean guesses (Sadat et al. 2024, algorithm 1)."""
    scale, averages = 7.0, [torch.zeros(4 * 8 * 8, dtype=torch.float64)] * 2
    guidance, memory = Guidance(scale, guider=APG(eta, norm, momentum)), dict[str, Any]()
    data = 0.5 if prediction == "edm" else 1.0
    for step, sigma in enumerate((9.0, 4.0, 1.5)):
        x, positive, negative = draws(3 * (step + 1))[-3:]
        point = make_point(x, sigma, prediction, data, memory)
        found = point.denoised(guidance.combine({NEGATIVE: negative, POSITIVE: positive}, point))
        for image in range(2):
            c, u = (point.denoised(each)[image].flatten() for each in (positive, negative))
            difference = c - u
            if momentum:
                difference = averages[image] = difference + momentum * averages[image]
            if norm:
                difference = difference * min(1.0, norm / float(difference.norm()))
            direction = c / c.norm()
            along = difference.dot(direction) * direction
            wanted = c + (scale - 1) * (difference - along + eta * along)
            assert torch.allclose(found[image].flatten(), wanted, atol=1e-10)


def test_apg_is_cfg_where_it_changes_nothing() -> None:
    x, positive, negative = draws(3)
    point = make_point(x, 3.0, "epsilon")
    outputs = {NEGATIVE: negative, POSITIVE: positive}
    plain, same = Guidance(7.0), Guidance(7.0, guider=APG(eta=1, norm_threshold=0, momentum=0))
    assert torch.allclose(same.combine(outputs, point), plain.combine(outputs, point), atol=1e-12)


def test_momentum_begins_again_where_the_noise_level_rises() -> None:
    """A sampler that goes back up (restart) begins a new run; each denoiser has a memory of its own."""
    # without a threshold: it would make all these differences, of one direction, equally long
    guidance, memory = Guidance(7.0, guider=APG(norm_threshold=0, momentum=-0.5)), dict[str, Any]()
    x, positive, negative = draws(3)
    outputs = {NEGATIVE: negative, POSITIVE: positive}
    results = [guidance.combine(outputs, make_point(x, s, "epsilon", memory=memory)) for s in (4.0, 2.0, 4.0)]
    assert torch.equal(results[0], results[2])
    assert not torch.allclose(results[1], guidance.combine(outputs, make_point(x, 2.0, "epsilon")))


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_pag_is_the_papers(rescale: float) -> None:
    """u + w (c - u) + s (c - p) (Ahn et al. 2024, equation 16), then the rescaling, as in diffusers."""
    x, u, c, p = draws(4)
    point = make_point(x, 3.0, "epsilon")
    found = Guidance(5.0, rescale, guider=PAG(3.0)).combine({NEGATIVE: u, POSITIVE: c, PERTURBED: p}, point)
    wanted = u + 5 * (c - u) + 3 * (c - p)
    axes = (1, 2, 3)
    ratio = c.std(dim=axes, keepdim=True) / wanted.std(dim=axes, keepdim=True)
    wanted = wanted * (rescale * ratio + 1 - rescale)
    assert torch.allclose(found, wanted, atol=1e-12)
    alone = Guidance(1.0, guider=PAG(3.0))
    assert alone.names == (POSITIVE, PERTURBED)
    assert torch.allclose(alone.combine({POSITIVE: c, PERTURBED: p}, point), c + 3 * (c - p), atol=1e-12)


def test_branches_are_those_that_are_needed() -> None:
    """Off means not computed: by scale, by interval, by step."""
    assert Guidance(5.0, guider=PAG(0.0)).names == (NEGATIVE, POSITIVE)
    both = Guidance(5.0, interval=(1.0, 6.0), guider=PAG(2.0))
    assert both.names == both.branches(2.0) == (NEGATIVE, POSITIVE, PERTURBED)
    assert both.branches(7.0) == both.branches(0.5) == (POSITIVE,)
    steps = Guidance(Scales((7.0, 1.0, 2.0), (9.0, 4.0, 1.0)))
    assert steps.names == (NEGATIVE, POSITIVE)
    assert [steps.branches(sigma) for sigma in (9.0, 5.0, 4.0, 2.0, 1.0, 0.5)] == [
        (NEGATIVE, POSITIVE),
        (NEGATIVE, POSITIVE),
        (POSITIVE,),
        (POSITIVE,),
        (NEGATIVE, POSITIVE),
        (NEGATIVE, POSITIVE),
    ]
    assert [steps.at(sigma) for sigma in (20.0, 9.0, 4.0, 0.1)] == [7.0, 7.0, 1.0, 2.0]
    for name in (POSITIVE, "positive from step 3", "positive 2"):
        assert is_perturbed(perturbed(name)) and unperturbed(perturbed(name)) == name != perturbed(name)


def test_the_identity_map_takes_each_token_its_own_value() -> None:
    from sdxl.models.layers import Attention

    torch.manual_seed(0)
    attention = Attention(16, 16, heads=2, bias=False).double().requires_grad_(False)
    x = torch.randn(6, 5, 16, dtype=torch.float64)
    found = attention.attend(x, IdentityMap(plain=2, total=3)(attention, x))
    assert torch.allclose(found[:4], attention(x[:4]), atol=1e-12)
    assert torch.allclose(found[4:], attention.out(attention.v(x[4:])), atol=1e-12)


# ---- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "rescale", "layers", "theirs"),
    [
        (5.0, 0.0, ("mid",), "mid"),
        (5.0, 0.6, ("down.1", "mid"), ["down_blocks.1", "mid"]),
        (1.0, 0.0, ("up.0.attn.1",), "up_blocks.0.attentions.1"),
    ],
)
def test_pag_agrees_with_diffusers(
    scale: float, rescale: float, layers: tuple[str, ...], theirs: Any, reference_pipe: Any, tiny_pipe: Any, error: Any
) -> None:
    from diffusers import StableDiffusionXLPAGPipeline

    pipe = StableDiffusionXLPAGPipeline(**reference_pipe.components, pag_applied_layers=theirs, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    processors = dict(pipe.unet.attn_processors)
    try:
        expected = pipe(
            PROMPT,
            generator=tiny.generators([5, 6]),
            num_images_per_prompt=2,
            num_inference_steps=4,
            guidance_scale=scale,
            guidance_rescale=rescale,
            pag_scale=3.0,
            output_type="latent",
            height=64,
            width=64,
        ).images
    finally:
        pipe.unet.set_attn_processor(processors)
    given = QUICK | {"steps": 4, "guidance_scale": scale, "guidance_rescale": rescale, "num_images": 2}
    found = tiny_pipe(PROMPT, guider=PAG(3.0, layers), **given).images
    assert error(found, expected) < 1e-4
    alone = tiny_pipe(PROMPT, guider=PAG(3.0, layers), **given | {"num_images": 1, "seed": 6}).images
    assert error(alone, expected[1:]) < 1e-4


def test_a_guidance_scale_for_each_step(tiny_pipe: sdxl.Pipeline) -> None:
    def run(scale: Any, **more: Any) -> torch.Tensor:
        images = tiny_pipe(PROMPT, **QUICK | {"guidance_scale": scale, **more}).images
        assert isinstance(images, torch.Tensor)
        return images

    assert torch.equal(run([5.0, 5.0, 5.0]), run(5.0))
    assert torch.equal(run([1, 1, 1]), run(1))
    changed = run([8.0, 1.0, 3.0])
    assert not torch.equal(changed, run(8.0))
    plan = tiny_pipe.plan(sdxl.Request(PROMPT, steps=3, guidance_scale=[8.0, 1.0, 3.0]))
    assert [len(plan.guider.branches(sigma)) for sigma in plan.sigmas[:-1]] == [2, 1, 2]
    image = tiny.picture(1)
    part = tiny_pipe.plan(sdxl.Request(PROMPT, steps=4, guidance_scale=[8, 7, 6, 1], image=image, strength=0.5))
    assert [len(part.guider.branches(sigma)) for sigma in part.sigmas[:-1]] == [2, 1], "the steps that run have theirs"
    composed = {"prompt_syntax": "a1111", "guidance_scale": [8.0, 1.0, 3.0]}
    both = tiny_pipe(f"{PROMPT} AND a cat", **QUICK | composed).images
    assert both.isfinite().all() and not torch.equal(both, changed)  # type: ignore[union-attr, arg-type]
    assert sdxl.Request(PROMPT, guidance_scale=[5.0]).guidance_scale == 5.0
    for wrong in ([5.0] * 2, [5.0] * 4):
        with pytest.raises(ArgumentError, match=f"guidance_scale has {len(wrong)} numbers for 3 steps"):
            tiny_pipe.plan(sdxl.Request(PROMPT, steps=3, guidance_scale=wrong))
    for nonsense in ([], ["a"], -1, [5, -1], True, "5"):
        with pytest.raises(ArgumentError, match="guidance_scale is"):
            sdxl.Request(PROMPT, guidance_scale=nonsense)  # type: ignore[arg-type]


@pytest.mark.parametrize("guider", [APG(), PAG()], ids=["apg", "pag"])
def test_composed_prompts(guider: APG | PAG, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    """Equal parts whose weights add up to 1 are one prompt, perturbed too; a schedule of one text is no schedule."""
    plain = tiny_pipe(PROMPT, guider=guider, **QUICK).images
    for prompt in (f"{PROMPT} :0.4 AND {PROMPT} :0.6", f"[{PROMPT}:{PROMPT}:2]"):
        assert error(tiny_pipe(prompt, guider=guider, prompt_syntax="a1111", **QUICK).images, plain) < 1e-4
    changes = tiny_pipe(f"[{PROMPT}:a cat:2]", guider=guider, prompt_syntax="a1111", **QUICK).images
    assert error(changes, plain) > 1e-3


@pytest.mark.parametrize("guider", [APG(), PAG()], ids=["apg", "pag"])
def test_inpainting_batches_and_refiner(
    guider: APG | PAG, tiny_folder: Any, refiner_folder: Any, inpainting_pipe: sdxl.Pipeline, error: Any
) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu")
    sizes = {"height": None, "width": None}
    source: dict[str, Any] = {"image": tiny.picture(1), "mask": tiny.mask(1), **sizes}
    for each, more in ((pipe, {}), (pipe, source), (inpainting_pipe, source)):
        given = QUICK | {"seed": [5, 9], "num_images": 2} | more
        both = each(PROMPT, guider=guider, **given).images
        second = each(PROMPT, guider=guider, **given | {"seed": 9, "num_images": 1}).images
        assert error(both[1:], second) < 1e-4, "each image has its own norm and direction"
        assert error(both, each(PROMPT, **given).images) > 1e-4


def test_guidance_outside_of_its_interval_is_off_for_composed_prompts(tiny_pipe: sdxl.Pipeline) -> None:
    """Where the weights do not add up to 1 the negative branch is computed, and guides only within the interval."""
    prompt, interval = f"{PROMPT} :0.7 AND a cat :0.7", (90, 100)
    given = QUICK | {"prompt_syntax": "a1111"}
    outside = tiny_pipe(prompt, guidance_interval=interval, guidance_scale=9.0, **given).images
    assert torch.equal(outside, tiny_pipe(prompt, guidance_scale=1.0, **given).images)  # type: ignore[arg-type]


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("apg", APG()),
        ("apg,eta=0.2,norm_threshold=5", APG(0.2, 5)),
        ("pag,scale=2.5,layers=mid+up.0", PAG(2.5, ("mid", "up.0"))),
    ],
)
def test_a_guider_as_text_and_as_json(text: str, value: APG | PAG) -> None:
    import json

    assert read_guider(text) == read_guider(value) == value
    assert read_guider(json.loads(json.dumps(record_guider(value)))) == value
    assert sdxl.Request("a cat", guider=text).guider == value


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("cfg", "its name must be one of apg, pag"),
        ("apg,scale=2", "guider apg has no 'scale'; its values are eta, norm_threshold, momentum"),
        ("apg,eta", "expected NAME=VALUE in place of 'eta'"),
        ("apg,eta=x", "eta of apg is 'x'; expected a number from 0 to 1"),
        ("pag,scale=-1", "scale of pag is -1.0; expected a number from 0 to 1000"),
        ({"name": "pag", "layers": []}, "layers of pag is"),
        ({"name": "pag", "scale": 10**400}, "scale of pag is 1000.*; expected a number from 0 to 1000"),
        ({"eta": 0}, "its name must be"),
        (3, "guider is 3"),
        (math.nan, "guider is nan"),
    ],
)
def test_a_wrong_guider_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        sdxl.Request("a cat", guider=wrong)


def test_layers_must_be_there(tiny_pipe: sdxl.Pipeline) -> None:
    with pytest.raises(
        ArgumentError, match=r"layers of pag has 'down.0'.* expected parts of down.1, down.2, mid, up.0"
    ):
        tiny_pipe.plan(sdxl.Request("a cat", guider=PAG(layers=("mid", "down.0"))))


def test_a_guider_that_changes_nothing_is_a_warning(tiny_pipe: sdxl.Pipeline) -> None:
    with pytest.warns(sdxl.SDXLWarning, match="guider has no effect: guidance_scale 1 turns guidance off"):
        tiny_pipe.plan(sdxl.Request("a cat", guider=APG(), guidance_scale=1))


def test_a_record_replays(tiny_pipe: sdxl.Pipeline) -> None:
    given = {**QUICK, "guidance_scale": [4.0, 2.0, 3.0]}
    for guider in ("apg,eta=0.5", PAG(1.0)):
        result = tiny_pipe(PROMPT, guider=guider, **given)
        recorded = result.parameters[0]["request"]
        again = tiny_pipe(**recorded, output="latent", progress=False)
        assert torch.equal(result.images, again.images)  # type: ignore[arg-type]
        assert recorded["guider"] == record_guider(read_guider(guider))
