"""The seams that other features plug into (docs/architecture.md): each is used here, with no feature behind it, through
public names alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

import sdxl
from sdxl.models import Attention, Conditioning, Memory, Residuals, Source, UNet, precompute
from sdxl.runtime.int8 import can_quantize
from sdxl.sampling import SAMPLERS, SCHEDULES, Point, Step, make_denoiser, make_schedule
from sdxl.text import with_tokens
from sdxl.weights import open_checkpoint, save_folder

MODEL = Path(__file__).parent / "reference/model"  # its weights are float16 numbers
QUICK: dict[str, Any] = {"steps": 3, "seed": 1, "progress": False}
LATENT: dict[str, Any] = QUICK | {"output": "latent"}
CPU = torch.device("cpu")
MODES: list[dict[str, Any]] = [
    {"offload": "none"},
    {"offload": "stage"},
    {"offload": "block"},
    {"offload": "block", "dtype": "bfloat16"},
    {"offload": "none", "dtype": "bfloat16"},
    {"offload": "none", "int8": True},
    {"offload": "none", "fp8": True},
]


def load(model: Path = MODEL, **options: Any) -> sdxl.Pipeline:
    if options.get("int8") and not can_quantize(CPU):
        pytest.skip("this processor has no 8-bit layers")
    return sdxl.Pipeline.from_pretrained(model, **{"dtype": "float32", "device": "cpu", **options})


@pytest.fixture(scope="module")
def pipe() -> sdxl.Pipeline:
    return load()


def latents(pipe: sdxl.Pipeline, **arguments: Any) -> Tensor:
    images = pipe("a red cat", **(LATENT | arguments)).images
    assert isinstance(images, Tensor)
    return images


# ---- S1: weights -----------------------------------------------------------------------------------------------------

CHANGES: dict[str, Any] = {
    "unet.down.1.attn.0.blocks.0.cross_attn.k.weight": lambda w: 2 * w,  # a linear layer
    "unet.down.1.attn.0.blocks.0.ff.proj.weight": lambda w: w.flip(0),  # one of several that are packed as one
    "unet.down.1.res.0.conv1.weight": lambda w: -w,  # a convolution
    "unet.down.1.res.0.conv1.bias": lambda w: 2 * w,
    "text_encoder_2.layers.0.attn.q.weight": lambda w: w.roll(1, 0),
    "vae.decoder.conv_out.weight": lambda w: -w,
}


@pytest.fixture(scope="module")
def changed_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with these changes in its files: exact, since they are signs, powers of two and permutations."""
    checkpoint = open_checkpoint(MODEL)
    state = {name: dict(component.tensors()) for name, component in checkpoint.components.items()}
    for name, change in CHANGES.items():
        component, _, weight = name.partition(".")
        state[component][weight] = change(state[component][weight])
    folder = tmp_path_factory.mktemp("changed") / "model"
    save_folder(folder, checkpoint.info, state)
    return folder


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: " ".join(map(str, mode.values())))
def test_weights_are_changed_and_restored_bit_for_bit(mode: dict[str, Any], changed_model: Path) -> None:
    pipe = load(**mode)
    before = latents(pipe)
    pixels = pipe.decode(before)
    pipe.change_weights(CHANGES)
    after = latents(pipe)
    expected = load(changed_model, **mode)
    assert torch.equal(after, latents(expected)), "as if the files held the changed weights"
    assert torch.equal(pipe.decode(before), expected.decode(before))
    assert not torch.equal(after, before)
    pipe.change_weights({})
    assert torch.equal(latents(pipe), before)
    assert torch.equal(pipe.decode(before), pixels)


def test_a_change_is_given_float32(pipe: sdxl.Pipeline) -> None:
    seen: list[torch.dtype] = []
    other = load(dtype="bfloat16", offload="block")
    other.change_weights({"unet.conv_in.weight": lambda w: seen.append(w.dtype) or w})  # type: ignore[func-returns-value]
    assert not torch.equal(latents(other), latents(pipe))
    assert set(seen) == {torch.float32}


def test_a_cached_text_does_not_outlive_a_change() -> None:
    pipe = load()
    pipe.prepare_for_many()
    before = latents(pipe)
    pipe.change_weights({"text_encoder_2.layers.0.attn.q.weight": lambda w: -w})
    assert not torch.equal(latents(pipe), before)


def test_a_name_that_no_weight_has(pipe: sdxl.Pipeline) -> None:
    with pytest.raises(sdxl.ArgumentError, match=r"no weight unet\.conv_on\.weight; perhaps unet\.conv_in\.weight"):
        pipe.change_weights({"unet.conv_on.weight": lambda w: w})
    mine = sdxl.Pipeline.from_networks(pipe.info, pipe.unet, pipe.vae, pipe.text)
    with pytest.raises(sdxl.ArgumentError, match="has no files to read weights from; load it with from_pretrained"):
        mine.change_weights({})


# ---- S2: residuals ---------------------------------------------------------------------------------------------------


def random_like(tensors: Sequence[Tensor], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(each.shape, generator=generator) for each in tensors]


@torch.no_grad()
def test_residuals_agree_with_diffusers(error: Any) -> None:
    """A ControlNet's, on skips and middle, and a T2I-Adapter's, inside the contracting half."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UNet2DConditionModel.from_pretrained(MODEL / "unet").float().eval()
    unet, (x, t, context, vector, sizes) = unet_of(load()), unet_inputs()
    added = {"text_embeds": vector[:, : -sizes.numel()], "time_ids": sizes[None].expand(2, -1)}
    full = unet.embed(t, vector_of(unet, added)), unet.context_kv(context)
    _, skips = unet.contract(x, full[0], iter(full[1]))
    extra, mid = random_like(skips, 1), random_like([unet_middle(unet, x, full)], 2)[0]
    more = {"added_cond_kwargs": added, "return_dict": False}
    ours = unet.predict(x, *full, Residuals(skips=extra, mid=mid))
    reference = theirs(x, t, context, down_block_additional_residuals=extra, mid_block_additional_residual=mid, **more)[
        0
    ]
    assert error(ours, reference) < 1e-5
    # of each level the last map: with its downsampler where it has no attention
    path = {n: skips[n] for n in last_maps(unet)}
    features = dict(zip(path, random_like(list(path.values()), 3), strict=True))
    ours = unet.predict(x, *full, Residuals(path=features))
    reference = theirs(x, t, context, down_intrablock_additional_residuals=list(features.values()), **more)[0]
    assert error(ours, reference) < 1e-5
    assert torch.equal(unet.predict(x, *full), unet(x, t, context, vector_of(unet, added)))


def unet_of(pipe: sdxl.Pipeline) -> UNet:
    """A network with plain layers."""
    unet = UNet(pipe.info.config.unet)
    unet.load_state_dict(load(offload="block").unet.state_dict())
    return unet.requires_grad_(False).eval()


def unet_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    config = open_checkpoint(MODEL).info.config
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    context = torch.randn(2, 77, config.unet.context_dim, generator=generator)
    sizes = torch.tensor([64.0, 48.0, 3.0, 5.0, 64.0, 64.0])
    vector = torch.randn(2, config.text_encoder_2.projection_dim or 0, generator=generator)
    return x, torch.tensor([700.0, 700.0]), context, torch.cat([vector, sizes.expand(2, -1)], dim=1), sizes


def vector_of(unet: UNet, added: Mapping[str, Tensor]) -> Tensor:
    from sdxl.text import embed_sizes

    sizes = torch.cat([embed_sizes(row.tolist(), unet.config.size_dim) for row in added["time_ids"]])
    return torch.cat([added["text_embeds"], sizes], dim=1)


def unet_middle(unet: UNet, x: Tensor, full: tuple[Tensor, list[Memory]]) -> Tensor:
    return unet.contract(x, full[0], iter(full[1]))[0]


def last_maps(unet: UNet) -> list[int]:
    """The numbers of the skips to which diffusers adds a T2I-Adapter's features."""
    numbers, count = [], 1
    for level in unet.config.down:
        has_attention, is_last = level[-1] is not None, level is unet.config.down[-1]
        count += len(level) + (not is_last)
        numbers.append(count - 1 - (has_attention and not is_last))
    return numbers


# ---- S3: sources -----------------------------------------------------------------------------------------------------


def test_an_attention_with_several_sources() -> None:
    """The sum of their attentions in float64, each for the rows that it names."""
    torch.manual_seed(0)
    attention = Attention(16, 16, heads=2, bias=False).double().requires_grad_(False)
    x, text, image = (
        torch.randn(n, length, 16, dtype=torch.float64)
        for n, length in (
            (
                3,
                5,
            ),
            (2, 7),
            (3, 4),
        )
    )
    mask = torch.rand(3, 1, 5, 1, dtype=torch.float64)
    both = [attention.source(text, first=1), replace(attention.source(image), weight=0.5 * mask)]
    q = attention.q(x).reshape(3, 5, 2, 8).transpose(1, 2)

    def found(context: Tensor, rows: slice) -> Tensor:
        k, v = (layer(context).reshape(len(context), -1, 2, 8).transpose(1, 2) for layer in (attention.k, attention.v))
        return torch.softmax(q[rows] @ k.mT / 8**0.5, dim=-1) @ v

    wanted = 0.5 * mask * found(image, slice(0, 3))
    wanted[1:] += found(text, slice(1, 3))
    wanted = attention.out(wanted.transpose(1, 2).reshape(3, 5, 16))
    assert torch.allclose(attention.attend(x, both), wanted, atol=1e-12)


@torch.no_grad()
def test_memories_of_several_sources(pipe: sdxl.Pipeline) -> None:
    unet, (x, _, context, *_) = unet_of(pipe), unet_inputs()
    emb = torch.randn(2, unet.config.emb_dim)
    memories = unet.context_kv(context)
    plain = unet.predict(x, emb, memories)

    def with_image(weight: float, first: int) -> list[Memory]:
        images = unet.context_kv(context[first:, :4].flip(1), first)
        pairs = zip(memories, images, strict=True)
        return [replace(a, cross=(*a.cross, replace(b.cross[0], weight=weight))) for a, b in pairs]

    assert torch.equal(unet.predict(x, emb, with_image(0.0, 0)), plain)
    changed = unet.predict(x, emb, with_image(0.7, 1))
    assert torch.equal(changed[0], plain[0]), "a source is for its rows alone"
    assert not torch.equal(changed[1], plain[1])


@torch.no_grad()
def test_self_attention_takes_another_source(pipe: sdxl.Pipeline) -> None:
    unet, (x, _, context, *_) = unet_of(pipe), unet_inputs()
    emb, memories = torch.randn(2, unet.config.emb_dim), unet.context_kv(context)
    plain = unet.predict(x, emb, memories)
    same = [replace(memory, own=lambda attn, h: [attn.source(h)]) for memory in memories]
    assert torch.equal(unet.predict(x, emb, same), plain)

    def own_values(attn: Attention, h: Tensor) -> list[Source]:
        """The first row as ever, the second without its map of attention (PAG)."""
        source = attn.source(h)
        assert source.keys is not None
        return [Source(source.keys[:1], source.values[:1]), Source(None, source.values[1:], first=1)]

    perturbed = unet.predict(x, emb, [replace(memory, own=own_values) for memory in memories])
    assert torch.allclose(perturbed[0], plain[0], atol=1e-6)
    assert not torch.allclose(perturbed[1], plain[1], atol=1e-3)


# ---- S4: guidance branches -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ThreeBranches:
    """A guider that leaves one branch out above a noise level."""

    names: tuple[str, ...] = ("zero", "first", "second")

    def branches(self, sigma: float) -> tuple[str, ...]:
        return self.names if sigma < 5 else ("zero", "second")

    def combine(self, outputs: Mapping[str, Tensor], point: Point) -> Tensor:
        return sum((n + 1) * output for n, output in enumerate(outputs.values()))  # type: ignore[return-value]


@torch.no_grad()
def test_guidance_over_three_branches(pipe: sdxl.Pipeline) -> None:
    unet, (x, _, context, *_) = unet_of(pipe), unet_inputs()
    vector = torch.randn(2, unet.config.vector_dim)
    contexts = {"zero": torch.zeros_like(context), "first": context, "second": context.flip(1)}
    conditionings = {name: Conditioning(c, vector, is_zero=name == "zero") for name, c in contexts.items()}
    schedule = make_schedule(pipe.info.schedule, "trailing", 4, "euler")
    conditioned = precompute(unet, conditionings, schedule.timesteps)
    denoise = make_denoiser(
        lambda names, _: conditioned.select(names), schedule, "epsilon", ThreeBranches(), torch.float32
    )
    for sigma, t_of in zip(schedule.sigmas, schedule.timesteps, strict=False):
        asked = ThreeBranches().branches(sigma)
        times = torch.full((2,), t_of)
        scaled = x / (sigma**2 + 1) ** 0.5
        alone = [unet(scaled, times, contexts[name], vector) for name in asked]
        wanted = x - sigma * sum((n + 1) * output for n, output in enumerate(alone))
        assert torch.allclose(denoise(x, sigma), wanted, atol=1e-4 * float(wanted.abs().max()))


# ---- S5: token vectors -----------------------------------------------------------------------------------------------


def test_vectors_in_place_of_a_word(pipe: sdxl.Pipeline) -> None:
    for stage in pipe.text:
        (cat,) = stage.tokenizer.ids("cat")
        vector = stage.encoder.token_embed.weight[[cat]].clone()
        learned = with_tokens(stage, {"dog": vector})
        for texts in (["a red cat"], ["cat", "a photo of a cat in the style of a cat"]):
            ours = learned.encode([text.replace("cat", "dog") for text in texts], 0)
            assert torch.equal(ours[0], stage.encode(texts, 0)[0])
            assert ours[1] is None or torch.equal(ours[1], stage.encode(texts, 0)[1])  # type: ignore[arg-type]
        assert torch.equal(learned.encode(["a red cat"], 0)[0], stage.encode(["a red cat"], 0)[0])


def test_a_word_of_several_vectors(pipe: sdxl.Pipeline) -> None:
    """The longest word wins; the text behind it moves, and is cut where it must be."""
    stage = pipe.text[1]
    ids = [stage.tokenizer.ids(word)[0] for word in ("cat", "photo", "of")]
    vectors = stage.encoder.token_embed.weight[ids].clone()
    learned = with_tokens(stage, {"red": vectors[:1], "red dog": vectors})
    for ours, plain in (("a red dog", "a cat photo of"), ("red red dog red", "cat cat photo of cat")):
        for a, b in zip(learned.encode([ours], 0), stage.encode([plain], 0), strict=True):
            assert a is not None and b is not None and torch.equal(a, b)
    with pytest.warns(sdxl.SDXLWarning, match="this part was cut"):
        cut = learned.encode(["a " * 73 + "red dog"], 0)
    with pytest.warns(sdxl.SDXLWarning, match="this part was cut"):
        assert torch.equal(cut[0], stage.encode(["a " * 73 + "cat photo of"], 0)[0])
    with pytest.raises(sdxl.ArgumentError, match=r"the vectors of 'x' have shape \[1, 3\]"):
        with_tokens(stage, {"x": torch.zeros(1, 3)})


# ---- S6: steps -------------------------------------------------------------------------------------------------------


def source_and_mask() -> dict[str, Any]:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(mask).rectangle((16, 16, 47, 47), fill=255)
    return {"image": Image.fromarray(noise), "mask": mask}


@pytest.mark.parametrize("task", ["text", "mask", "strength 0"])
@pytest.mark.parametrize("output", ["pil", "tensor", "latent"])
def test_the_last_step_gives_the_calls_result(task: str, output: Any, pipe: sdxl.Pipeline) -> None:
    more = {"text": {}, "mask": source_and_mask(), "strength 0": {"image": source_and_mask()["image"], "strength": 0}}
    arguments: dict[str, Any] = {"steps": 4, "seed": [3, 5], "num_images": 2, **more[task]}
    steps = list(pipe.steps("a red cat", **arguments))
    result, called = steps[-1].result(output), pipe("a red cat", output=output, progress=False, **arguments)
    assert steps[-1].is_last
    assert (result.seeds, result.parameters) == (called.seeds, called.parameters)
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(result.images, called.images, strict=True))
    if task == "mask":
        kept = np.asarray(arguments["mask"]) == 0
        early = steps[0].result().images[0]
        assert (np.asarray(early)[kept] == np.asarray(arguments["image"])[kept]).all(), "pasted back at every step"


def test_previews() -> None:
    """The miniature's latents have colours of their own, SDXL's have the published ones, others none."""
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    *_, last = pipe.steps("a red circle on a blue background", seed=1, steps=6)
    (preview,) = last.preview()
    (image,) = last.result().images
    assert preview.size == (16, 16)
    small = np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float32)
    assert np.abs(np.asarray(preview, np.float32) - small).mean() < 30, "of 255"
    assert sdxl.models.BASE.vae.preview is not None
    tiny = load()
    *_, last = tiny.steps("a red cat", seed=1, steps=1)
    assert last.preview() == []
    assert "finish" not in repr(last)


# ---- from outside the package ----------------------------------------------------------------------------------------


def my_sampler(denoise: Any, x: Tensor, sigmas: Sequence[float], noise: Any) -> Iterator[Step]:
    """Euler's method, which asks for the guess at another noise level too."""
    for sigma, to in pairwise(sigmas):
        denoised = (denoise(x, sigma) + denoise(x, 0.9 * sigma)) / 2
        x = denoised + (x - denoised) * (to / sigma)
        yield Step(x, denoised, to)


def my_schedule(levels: Any, steps: int) -> tuple[Any, Any]:
    """Sigmas in equal ratios."""
    sigmas = np.geomspace(10.0, 0.1, steps)
    return sigmas, levels.timestep(sigmas)


def test_a_sampler_and_a_schedule_of_ones_own(monkeypatch: pytest.MonkeyPatch, pipe: sdxl.Pipeline) -> None:
    monkeypatch.setitem(SAMPLERS, "mine", my_sampler)
    monkeypatch.setitem(SCHEDULES, "even", my_schedule)
    images = latents(pipe, sampler="mine", schedule="even", steps=5)
    assert images.isfinite().all()
    assert not torch.equal(images, latents(pipe, sampler="euler", schedule="even", steps=5))
    plan = pipe.plan(sdxl.Request("a", sampler="mine", schedule="even", steps=5))
    assert plan.sigmas == pytest.approx((10, 3.1623, 1, 0.31623, 0.1, 0), abs=1e-4)
    assert plan.schedule.start_scale == pytest.approx(101**0.5), "a bare function has neutral traits"
    with pytest.raises(sdxl.ArgumentError, match=r"eta is 0\.5 but the sampler is mine; eta belongs to .*ddim"):
        pipe("a", sampler="mine", eta=0.5)


def half_of(denoise: Any, x: Tensor, sigmas: Sequence[float], noise: Any) -> Iterator[Step]:
    yield from list(my_sampler(denoise, x, sigmas, noise))[:2]


def one_more(denoise: Any, x: Tensor, sigmas: Sequence[float], noise: Any) -> Iterator[Step]:
    for step in my_sampler(denoise, x, sigmas, noise):
        yield step
    yield step


def of_tensors(denoise: Any, x: Tensor, sigmas: Sequence[float], noise: Any) -> Iterator[Tensor]:
    return (step.x for step in my_sampler(denoise, x, sigmas, noise))


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (half_of, "sampler mine gives 2 of 4 steps; expected one for each pair"),
        (one_more, "sampler mine gives step 5 of 4; expected a Step"),
        (of_tensors, "sampler mine gives a tensor of shape .*; expected a Step"),
    ],
)
def test_a_sampler_that_breaks_its_contract_is_named(
    sampler: Any, words: str, monkeypatch: pytest.MonkeyPatch, pipe: sdxl.Pipeline
) -> None:
    monkeypatch.setitem(SAMPLERS, "mine", sampler)
    with pytest.raises(sdxl.ArgumentError, match=words):
        latents(pipe, sampler="mine", steps=4)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (lambda levels, n: np.linspace(10, 1, n), "gives array"),
        (lambda levels, n: (np.linspace(10, 0, n + 1), np.linspace(999, 0, n + 1)), "gives 5 sigmas and 5 timesteps"),
        (lambda levels, n: (np.linspace(10, 0, n), np.linspace(999, 0, n)), r"gives the sigmas \[10\.0, .*, 0\.0\]"),
        (lambda levels, n: (np.linspace(1, 10, n), np.linspace(0, 999, n)), r"gives the sigmas \[1\.0"),
        (lambda levels, n: (np.linspace(10, 1, n), [np.nan] * n), "timesteps .*nan"),
        (lambda levels, n: None, "gives None"),
    ],
)
def test_a_schedule_that_breaks_its_contract_is_named(
    schedule: Any, words: str, monkeypatch: pytest.MonkeyPatch, pipe: sdxl.Pipeline
) -> None:
    monkeypatch.setitem(SCHEDULES, "mine", schedule)
    with pytest.raises(sdxl.ArgumentError, match=f"schedule mine .*{words}.*expected 4 falling sigmas above 0"):
        latents(pipe, schedule="mine", steps=4)


def test_unknown_names_of_a_denoiser_and_a_schedule(pipe: sdxl.Pipeline) -> None:
    with pytest.raises(sdxl.ArgumentError, match=r"sampler is 'DPM\+\+ 2M'; it must be one of .*dpmpp_2m"):
        make_schedule(pipe.info.schedule, "karras", 3, "DPM++ 2M")
    schedule = make_schedule(pipe.info.schedule, "karras", 3, "euler")
    with pytest.raises(sdxl.ArgumentError, match="prediction is 'eps'; it must be one of epsilon, v_prediction"):
        make_denoiser(lambda *_: unet_of(pipe), schedule, "eps", ThreeBranches(), torch.float32)  # type: ignore[arg-type]


def test_a_bare_function_under_a_known_name_has_neutral_traits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMPLERS, "euler", my_sampler)
    assert SAMPLERS["euler"].starts_at_sigma == ()
    assert make_schedule(sdxl.models.ScheduleConfig(), "trailing", 5, "euler").start_scale == pytest.approx(
        14.6488, abs=1e-3
    )


# ---- nothing plugged in ----------------------------------------------------------------------------------------------


def test_encode_prompt_gives_the_unets_input(pipe: sdxl.Pipeline) -> None:
    encoded = pipe.encode_prompt(["a red cat", "a dog"], negative_prompt="photo", num_images=2, height=48)
    assert encoded.context.shape == encoded.negative_context.shape == (4, 77, pipe.info.config.unet.context_dim)
    assert encoded.vector.shape == (4, pipe.info.config.unet.vector_dim)
    assert torch.equal(encoded.vector[:, : encoded.pooled.shape[1]], encoded.pooled)
    assert torch.equal(encoded.context[0], encoded.context[1])
    assert {each.dtype for each in vars(encoded).values()} == {torch.float32}
    plan = pipe.plan(sdxl.Request(["a red cat", "a dog"], negative_prompt="photo", num_images=2, height=48))
    for name, conditioning in pipe.experts[0].condition(plan).items():
        prefix = "negative_" * (name == "negative")
        assert torch.equal(conditioning.context, getattr(encoded, f"{prefix}context"))
        assert torch.equal(conditioning.vector, getattr(encoded, f"{prefix}vector"))
    plain = pipe.encode_prompt("a red cat", guidance_scale=1)
    assert not plain.negative_context.any()
    with pytest.raises(sdxl.ArgumentError, match="refiner is True but no refiner is loaded"):
        pipe.encode_prompt("a", refiner=True)
