"""The steps of training, each against its definition, and an interrupted run, which resumes to the same weights."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import sdxl
from sdxl.errors import ArgumentError
from sdxl.models.config import VAEConfig
from sdxl.models.schedule_config import ScheduleConfig
from sdxl.models.unet import UNet
from sdxl.models.unet_config import UNetConfig
from sdxl.models.vae import VAE
from sdxl.sampling.schedule import noise_table
from sdxl.training.losses import autoencoder_loss, denoising_loss, offset_noise, stratified_timesteps
from sdxl.training.optimizers import Muon, cosine_rate, make_optimizers, orthogonalize, update_average
from sdxl.training.start import start_unet, start_vae
from sdxl.weights import open_checkpoint

MINIATURE = Path(__file__).parents[2] / "weights/miniature"
SMALL_UNET = UNetConfig(
    channels=(32, 64),
    down=((None,), (1,)),
    up=((1, 1), (None, None)),
    mid=1,
    heads=(1, 1),
    context_dim=16,
    vector_dim=24,
    size_dim=4,
)
SMALL_VAE = VAEConfig(channels=(8, 8, 16, 16), blocks=1, norm_groups=4, scaling_factor=1.7)


def test_an_initial_unet_predicts_zero() -> None:
    unet = UNet(SMALL_UNET)
    start_unet(unet)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 700.0]), torch.randn(2, 77, 16), torch.randn(2, 24)
    assert torch.equal(unet(*inputs), torch.zeros(2, 4, 8, 8))


def test_checkpointed_blocks_have_the_same_gradients() -> None:
    """As docs/networks.md shows it; a block computes twice."""
    torch.manual_seed(0)
    unet = UNet(SMALL_UNET)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 700.0]), torch.randn(2, 77, 16), torch.randn(2, 24)
    runs: list[list[Tensor | None]] = []
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    for checkpointed in (False, True):
        for level in unet.levels() if checkpointed else []:
            for block in (*level.res, *(block for attn in level.attn for block in attn.blocks)):
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        unet.zero_grad()
        handle = unet.up[0].attn[0].blocks[0].ff.register_forward_pre_hook(count)
        unet(*inputs).square().sum().backward()
        handle.remove()
        runs.append([parameter.grad for parameter in unet.parameters()])
    assert calls == 1 + 2
    for plain, again in zip(*runs, strict=True):
        assert (plain is None) == (again is None)
        assert plain is None or torch.equal(plain, again)


def test_autoencoder_loss_is_its_three_terms() -> None:
    torch.manual_seed(0)
    vae, x, noise = VAE(SMALL_VAE), torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 4, 4, 4)
    mean, logvar = vae.moments(x)
    posterior = torch.distributions.Normal(mean, (logvar / 2).exp())
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
    error = vae.decode(vae.encode(x, noise)) - x
    expected = error.square().mean() + 0.1 * error.abs().mean() + 0.01 * divergence
    assert autoencoder_loss(vae, x, noise, l1_weight=0.1, kl_weight=0.01).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_an_initial_vae_has_a_narrow_posterior() -> None:
    vae = VAE(SMALL_VAE)
    start_vae(vae)
    assert torch.equal(vae.moments(torch.rand(1, 3, 32, 32))[1], torch.full((1, 4, 4, 4), -6.0))


def test_denoising_loss_of_known_predictions() -> None:
    """The right noise costs nothing; no noise costs min(snr, 5) / snr of its power; x is scaled to unit variance."""
    table = torch.tensor(noise_table(ScheduleConfig()).sigmas, dtype=torch.float32)
    t = torch.tensor([0, 300, 999])
    z, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    seen: list[Tensor] = []

    class Oracle(nn.Module):
        def __init__(self, answer: Tensor) -> None:
            super().__init__()
            self.answer = answer

        def forward(self, x: Tensor, t: Tensor, context: Tensor, vector: Tensor) -> Tensor:
            seen.append(x)
            return self.answer

    nothing = torch.empty(3, 0)
    assert denoising_loss(Oracle(noise), z, noise, t, table[t], nothing, nothing).item() == 0
    loss = denoising_loss(Oracle(torch.zeros_like(z)), z, noise, t, table[t], nothing, nothing)
    weights = [min(1 / float(s) ** 2, 5) * float(s) ** 2 for s in table[t]]
    expected = np.mean([w * float(n.square().mean()) for w, n in zip(weights, noise, strict=True)])
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    alpha = 1 / (table[t] ** 2 + 1)
    scaled = alpha.sqrt()[:, None, None, None] * z + (1 - alpha).sqrt()[:, None, None, None] * noise
    assert torch.allclose(seen[0], scaled, atol=1e-5)


def diffusers_loss(prediction: str, zero_snr: bool, t: Tensor, z: Tensor, noise: Tensor, output: Tensor) -> Tensor:
    """The squared error with min-SNR weights of 5, of diffusers' training scheduler and the formulas of its scripts."""
    diffusers = pytest.importorskip("diffusers")
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = diffusers.DDPMScheduler(**betas, prediction_type=prediction, rescale_betas_zero_snr=zero_snr)
    snr = pytest.importorskip("diffusers.training_utils").compute_snr(scheduler, t)
    least = snr.clamp(max=5)
    target = {"epsilon": noise, "v_prediction": scheduler.get_velocity(z, noise, t), "sample": z}[prediction]
    weight = {"epsilon": least / snr, "v_prediction": least / (snr + 1), "sample": least}[prediction]
    return ((output - target).square().mean((1, 2, 3)) * weight).mean()


@pytest.mark.parametrize(
    ("prediction", "zero_snr"), [("epsilon", False), ("v_prediction", False), ("v_prediction", True), ("sample", False)]
)
def test_denoising_loss_of_each_prediction_is_that_of_diffusers(prediction: str, zero_snr: bool) -> None:
    schedule = ScheduleConfig(prediction=prediction, zero_terminal_snr=zero_snr)
    t, nothing = torch.tensor([0, 300, 900 if prediction == "epsilon" else 999]), torch.empty(3, 0)
    z, noise, output = torch.randn(3, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor(noise_table(schedule).sigmas)[t]
    expected = diffusers_loss(prediction, zero_snr, t, z, noise, output).item()
    found = denoising_loss(lambda *_: output, z, noise, t, sigma, nothing, nothing, prediction=prediction)
    assert found.item() == pytest.approx(expected, rel=2e-5)

    half = torch.bfloat16  # the noise levels, the error and its mean stay exact
    halves = denoising_loss(
        lambda x, *_: output.to(x), z.to(half), noise.to(half), t, sigma, nothing, nothing, prediction=prediction
    )
    assert halves.dtype is torch.float32
    assert halves.item() == pytest.approx(expected, rel=2e-3)


def test_denoising_loss_without_weights_and_with_an_unknown_prediction() -> None:
    z, noise, nothing = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.empty(2, 0)
    given = z, noise, torch.tensor([3, 900]), torch.tensor([0.1, 9.0]), nothing, nothing
    plain = denoising_loss(lambda x, *_: torch.zeros_like(x), *given, gamma=None)
    assert plain.item() == pytest.approx(noise.square().mean().item())
    with pytest.raises(ArgumentError, match="prediction is 'edm'; expected epsilon, v_prediction or sample"):
        denoising_loss(lambda x, *_: x, *given, prediction="edm")


def test_stratified_timesteps_take_one_of_each_interval() -> None:
    t = stratified_timesteps(40, 0, 200, torch.Generator().manual_seed(0))
    assert (t // 5).tolist() == list(range(40))


def test_offset_noise_shifts_whole_channels() -> None:
    noise = torch.randn(500, 4, 8, 8)
    shift = offset_noise(noise, 0.05, torch.Generator().manual_seed(0)) - noise
    assert shift.flatten(2).std(dim=2).max() < 1e-6
    assert shift[..., 0, 0].std().item() == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (64, 64)])
def test_orthogonalize_makes_singular_values_alike(shape: tuple[int, int]) -> None:
    matrices = torch.randn((3, *shape), generator=torch.Generator().manual_seed(0))
    for matrix, ours in zip(matrices, orthogonalize(matrices), strict=True):
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        values = torch.linalg.svdvals(ours)
        assert values.max() < 1.3
        assert values.median() > 0.6
        assert torch.nn.functional.cosine_similarity(ours.flatten(), (u @ v).flatten(), dim=0) > 0.95


def test_every_parameter_has_one_optimizer() -> None:
    unet = UNet(SMALL_UNET)
    optimizers = make_optimizers(unet, 1e-3)
    optimized = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(optimized) == sorted(id(p) for p in unet.parameters())
    assert isinstance(optimizers[0], Muon)
    assert all(p.ndim > 1 for p in optimizers[0].param_groups[0]["params"])


def test_rate_rises_then_falls_to_zero() -> None:
    assert cosine_rate(0, 100, 0) == 1 and cosine_rate(50, 100, 0) == pytest.approx(0.5)
    rates = [cosine_rate(step, 100, 10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] > 0.95
    assert rates[100] == pytest.approx(0, abs=1e-9)
    assert cosine_rate(150, 100, 0) == pytest.approx(0, abs=1e-9)


def test_average_follows_the_model() -> None:
    layer = nn.Linear(3, 3)
    average = {key: torch.zeros_like(value) for key, value in layer.state_dict().items()}
    update_average(average, layer, step=10**6, decay=0.75)
    assert torch.allclose(average["weight"], 0.25 * layer.weight)


def test_an_average_in_float32_follows_weights_in_half_and_copies_whole_numbers() -> None:
    """A step that bfloat16 would round away, and the counter of a batch norm."""
    norm = nn.BatchNorm1d(3).bfloat16()
    average = {
        key: value.float() if value.is_floating_point() else value * 0 for key, value in norm.state_dict().items()
    }
    norm.num_batches_tracked.fill_(7)
    nn.init.constant_(norm.weight, 2.0)
    update_average(average, norm, step=10**6, decay=0.9999)
    assert torch.allclose(average["weight"], torch.full((3,), 1.0001))
    assert average["num_batches_tracked"] == 7


def test_muon_takes_closures_and_matrices_alone() -> None:
    layer, x = nn.Linear(4, 4, bias=False), torch.randn(3, 4)
    optimizer, before = Muon(layer.parameters(), 1e-2), layer.weight.detach().clone()

    def closure() -> float:
        optimizer.zero_grad()
        loss = layer(x).square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == pytest.approx(float((x @ before.T).square().sum()), rel=1e-5)
    assert not torch.equal(layer.weight, before)
    with pytest.raises(ArgumentError, match=r"shape \[4\]; expected matrices"):
        Muon(nn.LayerNorm(4).parameters(), 1e-2)


@pytest.fixture
def recipe() -> Any:
    import train_miniature

    return train_miniature


def test_an_interrupted_run_ends_bit_for_bit_like_a_whole_one(recipe: Any, tmp_path: Path) -> None:
    plan = recipe.Plan(updates=6, batch=2, rate=1e-3, warmup=2)
    whole, resumed = (recipe.Run(tmp_path / name, 0, torch.device("cpu"), 0.0) for name in ("whole", "resumed"))
    for run in (whole, resumed):
        run.work.mkdir()

    class Interrupted(recipe.Run):  # type: ignore[misc, name-defined]
        def torch(self, *path: int) -> torch.Generator:
            if path[-1] == 3:
                raise KeyboardInterrupt
            return super().torch(*path)

    with pytest.raises(KeyboardInterrupt):
        recipe.train_autoencoder(Interrupted(resumed.work, 0, torch.device("cpu"), 0.0), plan, recipe.World())
    first, second = (recipe.train_autoencoder(run, plan, recipe.World()).state_dict() for run in (whole, resumed))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_does_not_resume_with_another_recipe(recipe: Any, tmp_path: Path) -> None:
    plan = recipe.Plan(updates=1, batch=2, rate=1e-3, warmup=1)
    recipe.train_autoencoder(recipe.Run(tmp_path, 0, torch.device("cpu")), plan, recipe.World())
    with pytest.raises(SystemExit, match="another recipe"):
        recipe.train_autoencoder(recipe.Run(tmp_path, 1, torch.device("cpu")), plan, recipe.World())


def test_optimizers_are_made_for_the_parameters_that_there_are() -> None:
    matrices = nn.Linear(4, 4, bias=False)
    assert [type(each) for each in make_optimizers(matrices, 1e-3)] == [Muon]
    assert [type(each) for each in make_optimizers(nn.LayerNorm(4), 1e-3)] == [torch.optim.AdamW]


def test_the_recipe_is_that_of_the_miniature(recipe: Any) -> None:
    for kind in ("base", "refiner"):
        config = open_checkpoint(MINIATURE / kind).info.config
        unet = recipe.REFINER_UNET if kind == "refiner" else recipe.BASE_UNET
        assert replace(unet, sample_size=config.unet.sample_size) == config.unet
        assert isinstance(config.vae, VAEConfig)
        fitted = {"scaling_factor": config.vae.scaling_factor, "latent_rgb": config.vae.latent_rgb}
        assert replace(recipe.VAE_CONFIG, **fitted) == config.vae


@pytest.mark.slow
def test_the_recipe_runs_to_its_end(recipe: Any, tmp_path: Path) -> None:
    """Every stage with two updates; what is written are a base and a refiner that generate."""
    few = recipe.Plan(updates=2, batch=2, rate=1e-3)
    short = recipe.Recipe(few, few, few, scenes=16, refiner_scenes=16, world=recipe.World(1, side=64))
    recipe.train(recipe.Run(tmp_path / "work", 0, torch.device("cpu")), short, tmp_path)
    pipe = sdxl.Pipeline.from_pretrained(tmp_path / "base", refiner=tmp_path / "refiner", dtype="float32", device="cpu")
    assert pipe("a red circle", steps=2, refine_at=0.5, progress=False)[0].size == (64, 64)
