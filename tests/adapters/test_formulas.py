"""What each kind of adapter adds to a weight: against formulas in float64, and against the programs that train them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdxl.adapters.formulas import FORMULAS, UnfitError, check_fit, find_formula, unit_change

ROOT = Path(__file__).parents[2]
LINEAR, CONV, POINT = (24, 16), (24, 16, 3, 3), (24, 16, 1, 1)
SHAPES = [LINEAR, CONV, POINT]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def changed(weight: Tensor, parts: dict[str, Tensor]) -> Tensor:
    formula = find_formula(frozenset(parts))
    assert formula is not None, sorted(parts)
    return weight + unit_change(formula, weight, parts)


def close(ours: Tensor, wanted: Tensor) -> bool:
    assert ours.shape == wanted.shape
    return bool((ours.double() - wanted.double()).abs().max() < 1e-6 * max(1, float(wanted.abs().max())))


# ---- formulas in float64, element by element -------------------------------------------------------------------------


def low_rank(shape: tuple[int, ...], rank: int = 4, seed: int = 1) -> tuple[dict[str, Tensor], Tensor]:
    """A LoRA's tensors without alpha, and their product."""
    up, down = randn(shape[0], rank, seed=seed) / 4, randn(rank, *shape[1:], seed=seed + 1) / 4
    product = torch.zeros(shape, dtype=torch.float64)
    for r in range(rank):
        product += up[:, r].double().reshape(-1, *[1] * (len(shape) - 1)) * down[r].double()
    if len(shape) == 4:
        up = up[..., None, None]
    return {"up": up, "down": down}, product


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("alpha", [None, 2.0, 0.0])
def test_lora(shape: tuple[int, ...], alpha: float | None) -> None:
    parts, product = low_rank(shape)
    weight = randn(*shape)
    factor = 1.0 if alpha is None else alpha / 4
    given = parts if alpha is None else parts | {"alpha": torch.tensor(alpha)}
    assert close(changed(weight, given), weight.double() + factor * product)
    assert close(changed(weight, given | {"scale": torch.tensor([0.25])}), weight.double() + 0.25 * product)


def test_lora_of_another_number_of_dimensions() -> None:
    """A linear layer's pair on a 1 x 1 convolution, and the reverse."""
    parts, product = low_rank(LINEAR)
    assert close(changed(randn(*POINT), parts), randn(*POINT).double() + product.reshape(POINT))
    parts, product = low_rank(POINT)
    assert close(changed(randn(*LINEAR), parts), randn(*LINEAR).double() + product.reshape(LINEAR))


def test_the_core_of_a_convolution() -> None:
    """CP decomposition with a core that is not symmetric."""
    up, mid, down = randn(24, 3, 1, 1), randn(3, 3, 3, 3, seed=1), randn(3, 16, 1, 1, seed=2)
    wanted = torch.zeros(CONV, dtype=torch.float64)
    for m in range(3):
        for n in range(3):
            outer = up[:, m, 0, 0].double()[:, None] * down[n, :, 0, 0].double()[None]
            wanted += outer[..., None, None] * mid[m, n].double()
    weight = randn(*CONV)
    parts = {"up": up, "mid": mid, "down": down, "alpha": torch.tensor(1.5)}
    assert close(changed(weight, parts), weight.double() + 0.5 * wanted)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_dora_of_both_axes(shape: tuple[int, ...], axis: int) -> None:
    parts, product = low_rank(shape)
    weight = randn(*shape)
    whole = weight.double() + 0.5 * product
    ends = [1] * (len(shape) - 2)
    if axis == 0:
        magnitude = randn(shape[0], 1, *ends).abs()
        norm = torch.stack([row.norm() for row in whole]).reshape(magnitude.shape)
    else:
        magnitude = randn(1, shape[1], *ends).abs()
        norm = torch.stack([whole[:, i].norm() for i in range(shape[1])]).reshape(magnitude.shape)
    given = parts | {"alpha": torch.tensor(2.0), "magnitude": magnitude}
    assert close(changed(weight, given), magnitude.double() * whole / norm)
    if axis == 0:  # PEFT's vectors are of the outputs, whatever their shape
        flat = parts | {"alpha": torch.tensor(2.0), "output_magnitude": magnitude.reshape(1, -1, *ends)}
        assert close(changed(weight, flat), magnitude.double() * whole / norm)
        assert close(
            changed(weight, parts | {"alpha": torch.tensor(2.0), "magnitude": magnitude.flatten()}),
            magnitude.double() * whole / norm,
        )


@pytest.mark.parametrize("square", [(16, 16), (16, 16, 3, 3)], ids=str)
def test_dora_of_a_square_weight_tells_its_axes_apart(square: tuple[int, ...]) -> None:
    parts, _ = low_rank(square)
    ends = [1] * (len(square) - 2)
    outputs, inputs = randn(16, 1, *ends).abs(), randn(1, 16, *ends).abs()
    weight = randn(*square)
    first, second = (changed(weight, parts | {"magnitude": m}) for m in (outputs, inputs))
    assert torch.allclose(first.flatten(1).norm(dim=1), outputs.flatten(), rtol=1e-5)
    assert torch.allclose(second.transpose(0, 1).flatten(1).norm(dim=1), inputs.flatten(), rtol=1e-5)


def test_dora_of_a_weight_of_zeros() -> None:
    parts, _ = low_rank(LINEAR)
    zeros = parts | {"up": torch.zeros_like(parts["up"]), "magnitude": torch.ones(24, 1)}
    assert torch.equal(changed(torch.zeros(LINEAR), zeros), torch.zeros(LINEAR))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loha(shape: tuple[int, ...]) -> None:
    first, a = low_rank(shape, 3, seed=1)
    second, b = low_rank(shape, 3, seed=7)
    parts = {
        "hada_w1_a": first["up"].flatten(1),
        "hada_w1_b": first["down"].flatten(1),
        "hada_w2_a": second["up"].flatten(1),
        "hada_w2_b": second["down"].flatten(1),
        "alpha": torch.tensor(6.0),
    }
    weight = randn(*shape)
    assert close(changed(weight, parts), weight.double() + 2 * a * b)


def tucker(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A core (r, r, kh, kw) between a (r, out) and b (r, in)."""
    wanted = torch.zeros(a.shape[1], b.shape[1], *core.shape[2:], dtype=torch.float64)
    for i in range(len(core)):
        for j in range(core.shape[1]):
            wanted += (a[i].double()[:, None] * b[j].double()[None])[..., None, None] * core[i, j].double()
    return wanted


def test_loha_with_cores() -> None:
    parts = {f"hada_w{n}_{x}": randn(3, size, seed=10 * n + size) for n in (1, 2) for x, size in (("a", 24), ("b", 16))}
    parts |= {f"hada_t{n}": randn(3, 3, 3, 3, seed=n) for n in (1, 2)}
    products = [tucker(parts[f"hada_t{n}"], parts[f"hada_w{n}_a"], parts[f"hada_w{n}_b"]) for n in (1, 2)]
    weight = randn(*CONV)
    assert close(changed(weight, parts), weight.double() + products[0] * products[1])


def kron(a: Tensor, b: Tensor) -> Tensor:
    """`a` (A, C) outside, `b` (B, D, ...) inside, by their indices."""
    rows = [torch.cat([a[i, j].double() * b.double() for j in range(a.shape[1])], dim=1) for i in range(len(a))]
    return torch.cat(rows)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("outer", ["whole", "factored"])
@pytest.mark.parametrize("inner", ["whole", "factored", "core"])
def test_lokr(shape: tuple[int, ...], outer: str, inner: str) -> None:
    if inner == "core" and shape != CONV:
        pytest.skip("only a convolution has a core")
    kernel = shape[2:]
    parts: dict[str, Tensor] = {"alpha": torch.tensor(4.0)}
    if outer == "whole":
        a = parts["lokr_w1"] = randn(4, 2, seed=3)
    else:
        parts |= {"lokr_w1_a": randn(4, 2, seed=4), "lokr_w1_b": randn(2, 2, seed=5)}
        a = parts["lokr_w1_a"].double() @ parts["lokr_w1_b"].double()
    if inner == "whole":
        b = parts["lokr_w2"] = randn(6, 8, *kernel, seed=6)
    elif inner == "factored":
        parts |= {"lokr_w2_a": randn(6, 5, seed=7), "lokr_w2_b": randn(5, *(8, *kernel), seed=8).flatten(1)}
        b = (parts["lokr_w2_a"].double() @ parts["lokr_w2_b"].double()).reshape(6, 8, *kernel)
    else:
        parts |= {"lokr_t2": randn(5, 5, 3, 3, seed=9), "lokr_w2_a": randn(5, 6), "lokr_w2_b": randn(5, 8)}
        b = tucker(parts["lokr_t2"], parts["lokr_w2_a"], parts["lokr_w2_b"])
    factor = 4 / 5 if inner != "whole" else 4 / 2 if outer == "factored" else 1
    weight = randn(*shape)
    assert close(changed(weight, parts), weight.double() + factor * kron(a, b))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_full_norm_and_ia3(shape: tuple[int, ...]) -> None:
    weight, diff = randn(*shape), randn(*shape, seed=1)
    assert close(changed(weight, {"diff": diff}), weight.double() + diff.double())
    ends = [1] * (len(shape) - 2)
    for on_input, factor in ((1, randn(1, 16, *ends)), (0, randn(24, 1, *ends)), (1, randn(16)), (0, randn(24))):
        axis = 1 if on_input else 0
        wide = factor.flatten().reshape([-1 if n == axis else 1 for n in range(len(shape))])
        parts = {"weight": factor, "on_input": torch.tensor(on_input)}
        assert close(changed(weight, parts), weight.double() * (1 + wide.double()))
    assert close(changed(randn(24), {"w_norm": randn(24, seed=2)}), randn(24).double() + randn(24, seed=2).double())


@pytest.mark.parametrize(("shape", "rank"), [*((shape, 3) for shape in SHAPES), ((4, 16, 3, 3), 4)], ids=str)
def test_glora_of_both_generations(shape: tuple[int, ...], rank: int) -> None:
    """Also where a layer has as many outputs as the rank, such as the UNet's last one."""
    weight, outputs, kernel = randn(*shape), shape[0], shape[2:]
    a1, a2 = randn(16, rank) / 4, randn(rank, 16, seed=1) / 4
    b1, b2 = randn(outputs, rank), randn(rank, 16, *kernel)
    mixed = torch.zeros(shape, dtype=torch.float64)
    product = a1.double() @ a2.double()
    for i in range(16):
        for j in range(16):
            mixed[:, j] += weight[:, i].double() * product[i, j]
    wanted = weight.double() + 0.5 * (mixed + (b1.double() @ b2.double().flatten(1)).reshape(shape))
    alpha = {"alpha": torch.tensor(0.5 * rank)}
    assert close(changed(weight, {"a1": a1, "a2": a2, "b1": b1, "b2": b2} | alpha), wanted)
    assert close(changed(weight, {"a1": a2, "a2": a1, "b1": b2, "b2": b1} | alpha), wanted)


def cayley(blocks: Tensor, bound: float) -> Tensor:
    skew = (blocks - blocks.transpose(-1, -2)).double()
    size = skew.square().sum().sqrt()
    if 0 < bound < size:
        skew *= bound / size
    one = torch.eye(blocks.shape[-1], dtype=torch.float64)
    return torch.linalg.solve((one - skew).transpose(-1, -2), (one + skew).transpose(-1, -2)).transpose(-1, -2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_oft(shape: tuple[int, ...], alpha: float) -> None:
    weight, blocks, rescale = randn(*shape), randn(4, 6, 6) / 4, randn(24, *[1] * (len(shape) - 1)).abs()
    rotations = cayley(blocks, alpha * 24)
    assert torch.allclose(rotations @ rotations.transpose(-1, -2), torch.eye(6, dtype=torch.float64), atol=1e-9)
    wanted = torch.zeros(shape, dtype=torch.float64)
    for k in range(4):
        for m in range(6):
            for n in range(6):
                wanted[6 * k + m] += rotations[k, n, m] * weight[6 * k + n].double()
    parts = {"oft_blocks": blocks, "alpha": torch.tensor(alpha)}
    assert close(changed(weight, parts), wanted)
    assert close(changed(weight, parts | {"rescale": rescale}), wanted * rescale.double())
    assert close(changed(weight, {"oft_diag": rotations.float()}), wanted)


def test_tensors_that_do_not_fit() -> None:
    parts, _ = low_rank(LINEAR)
    weight = randn(*LINEAR)
    bad: list[dict[str, Tensor]] = [
        parts | {"up": randn(24, 5)},
        parts | {"up": randn(16, 4), "down": randn(4, 24)},
        parts | {"magnitude": torch.ones(7, 1)},
        {"hada_w1_a": randn(24, 3), "hada_w1_b": randn(3, 16), "hada_w2_a": randn(1, 3), "hada_w2_b": randn(3, 16)},
        {"weight": randn(7), "on_input": torch.tensor(1)},
        {"oft_blocks": randn(3, 5, 5)},
        {"lokr_w1": randn(2, 2), "lokr_w2": randn(5, 8)},
    ]
    for each in bad:
        with pytest.raises(UnfitError):
            changed(weight, each)
    for roles in (
        {"up"},
        {"down", "alpha"},
        {"hada_w1_a", "hada_w1_b"},
        {"alpha"},
        {"magnitude"},
        {"up", "down", "diff"},
    ):
        assert find_formula(frozenset(roles)) is None


@pytest.mark.parametrize("up", [(24, 4), (24, 4, 1, 1), (24, 2, 2, 1), (16, 4), (24, 5)], ids=str)
@pytest.mark.parametrize("down", [(4, 16), (4, 16, 1, 1), (4, 16, 3, 3), (4, 24), (5, 16)], ids=str)
def test_shapes_alone_tell_whether_a_lora_fits(up: tuple[int, ...], down: tuple[int, ...]) -> None:
    parts = {"up": torch.zeros(up), "down": torch.zeros(down)}

    def is_unfit(check: Any) -> bool:
        try:
            check()
        except UnfitError:
            return True
        return False

    for shape in SHAPES:
        computed = is_unfit(lambda shape=shape: unit_change(FORMULAS[0], torch.zeros(shape), parts))
        assert is_unfit(lambda shape=shape: check_fit(FORMULAS[0], shape, parts)) == computed


def test_a_lora_loads_no_compiler() -> None:
    """The first LoRA of a process takes no longer than the others."""
    code = (
        "import sys, sdxl; pipe = sdxl.Pipeline.from_pretrained('miniature', device='cpu'); before = set(sys.modules); "
        "pipe.set_loras(['weights/adapters/heart.safetensors']); print(len(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20


# ---- the programs that train them ------------------------------------------------------------------------------------


def layer(shape: tuple[int, ...]) -> nn.Module:
    plain: Any = (
        nn.Linear(shape[1], shape[0])
        if len(shape) == 2
        else nn.Conv2d(shape[1], shape[0], shape[2], padding=shape[2] // 2)
    )
    plain.weight.data = randn(*shape)
    return plain.requires_grad_(False)  # type: ignore[no-any-return]


def output(plain: nn.Module, weight: Tensor) -> Tensor:
    """What the layer would give with another weight."""
    return torch.func.functional_call(plain, {"weight": weight, "bias": plain.bias}, (an_input(plain),))  # type: ignore[dict-item]


def an_input(plain: nn.Module) -> Tensor:
    return randn(5, 16) if isinstance(plain, nn.Linear) else randn(2, 16, 5, 5)


LYCORIS: list[tuple[str, str, dict[str, Any]]] = [
    ("locon", "LoConModule", {}),
    ("locon", "LoConModule", {"use_tucker": True}),
    ("locon", "LoConModule", {"rs_lora": True}),
    ("locon", "LoConModule", {"weight_decompose": True, "wd_on_out": True}),
    ("loha", "LohaModule", {}),
    ("loha", "LohaModule", {"use_tucker": True}),
    ("lokr", "LokrModule", {"factor": 4}),
    ("lokr", "LokrModule", {"factor": 4, "decompose_both": True}),
    ("lokr", "LokrModule", {"factor": 4, "use_tucker": True}),
    ("lokr", "LokrModule", {"factor": 4, "full_matrix": True}),
    ("lokr", "LokrModule", {"factor": 4, "weight_decompose": True, "wd_on_out": True}),
    ("full", "FullModule", {}),
    ("ia3", "IA3Module", {}),
    ("ia3", "IA3Module", {"train_on_input": True}),
    ("glora", "GLoRAModule", {}),
    ("diag_oft", "DiagOFTModule", {}),
    ("diag_oft", "DiagOFTModule", {"constraint": 0.01, "rescaled": True}),
    ("boft", "ButterflyOFTModule", {}),
    ("boft", "ButterflyOFTModule", {"constraint": 0.01, "rescaled": True}),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", [(32, 16), (32, 16, 3, 3)], ids=["linear", "convolution"])
@pytest.mark.parametrize(("file", "name", "options"), LYCORIS, ids=lambda value: str(value))
def test_lycoris_computes_the_same(shape: tuple[int, ...], file: str, name: str, options: dict[str, Any]) -> None:
    """The forward pass, which is what trains: its merging multiplies LoHa and LoKr by alpha / rank twice."""
    modules = pytest.importorskip("lycoris.modules." + file)
    plain = layer(shape)
    torch.manual_seed(0)
    theirs = getattr(modules, name)("lora_unet_x", plain, multiplier=1.0, lora_dim=4, alpha=2.0, **options)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape) / 4)
        if hasattr(theirs, "dora_scale"):
            theirs.dora_scale.copy_(torch.rand(theirs.dora_scale.shape) + 0.5)
        theirs.apply_to()
        wanted = plain(an_input(plain))
        theirs.restore()
    from sdxl.adapters.keys import split

    state = {f"lora_unet_x.{key}": value for key, value in theirs.state_dict().items()}
    found, rest = split(state)
    assert not rest, rest
    parts = {role: state[key].float() for role, key in found["lora_unet_x"].items() if role != "diff_b"}
    ours = changed(plain.weight, parts)  # type: ignore[arg-type]
    bias = state.get("lora_unet_x.diff_b", torch.zeros(32))
    got = output(plain, ours) + (bias if len(shape) == 2 else bias[:, None, None])
    assert (got - wanted).abs().max() < 2e-5 * wanted.abs().max()


@pytest.mark.parametrize("shape", [(24, 16), (24, 16, 3, 3)], ids=["linear", "convolution"])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=str)
def test_peft_computes_the_same(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    from sdxl.adapters.adapter import _alpha
    from sdxl.adapters.keys import split

    plain = layer(shape)
    model = peft.inject_adapter_in_model(
        peft.LoraConfig(r=4, lora_alpha=6, target_modules=["0"], init_lora_weights=False, **options),
        nn.Sequential(plain),
    )
    state = {key: value.detach().clone() for key, value in peft.get_peft_model_state_dict(model).items()}
    if options.get("use_dora"):
        key = next(key for key in state if "magnitude" in key)
        state[key] = state[key] * (1 + randn(*state[key].shape) / 10)
        peft.set_peft_model_state_dict(model, state)
    found, rest = split(state)
    assert not rest, rest
    (parts,) = [{role: state[key] for role, key in roles.items()} for roles in found.values()]
    alpha = _alpha({"lora_alpha": 6, **options}, "0", 4, "x")
    weight = randn(*shape)
    ours = changed(weight, parts | {"alpha": torch.tensor(alpha)})
    with torch.no_grad():
        wanted = model(an_input(plain))
    assert (output(layer_like(plain, weight), ours) - wanted).abs().max() < 1e-6 * wanted.abs().max()


def layer_like(plain: Any, weight: Tensor) -> nn.Module:
    same = layer(tuple(weight.shape))
    same.bias.data = (plain.base_layer if hasattr(plain, "base_layer") else plain).bias.data
    return same
