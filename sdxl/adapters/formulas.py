"""What adapters add to a weight: one formula for each kind, chosen by the tensors that a module of the file has.

A formula takes the weight W, (out, in) or (out, in, kh, kw), and the module's tensors by their roles, all float32, and
returns the change of W. W is always the file's own weight, never one that another adapter has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

Parts = Mapping[str, Tensor]


@dataclass(frozen=True)
class Formula:
    """A kind of adapter. A module is of this kind if it has all roles of `needs`, and none beside those of `may`; the
    change of the weight is multiplied by alpha / `rank`, where there is a rank.
    """

    name: str
    change: Callable[[Tensor, Parts], Tensor]
    needs: frozenset[str]
    may: frozenset[str] = frozenset()
    rank: Callable[[Parts], int | None] = lambda parts: None


def _lora(weight: Tensor, parts: Parts) -> Tensor:
    """LoRA (arXiv 2106.09685), LoCon, and with `mid` their CP decomposition (arXiv 2108.06098)."""
    up, down = parts["up"].flatten(1), parts["down"].flatten(1)
    if "mid" not in parts:
        return up @ down
    return torch.einsum("om,mnhw,ni->oihw", up, parts["mid"], down)


def _loha(weight: Tensor, parts: Parts) -> Tensor:
    """LoHa: the Hadamard product of two products of low rank (LyCORIS, arXiv 2309.14859)."""
    first, second = (
        _product(parts[f"hada_w{n}_a"], parts[f"hada_w{n}_b"], parts.get(f"hada_t{n}"), ()) for n in (1, 2)
    )
    _expect(first.shape == second.shape, "its two products have different shapes")
    return first * second


def _lokr(weight: Tensor, parts: Parts) -> Tensor:
    """LoKr: a Kronecker product, each factor whole or of low rank; `lokr_w1` is the outer one (arXiv 2309.14859)."""
    first = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    if "lokr_w2" in parts:
        second = parts["lokr_w2"]
    else:
        second = _product(parts["lokr_w2_a"], parts["lokr_w2_b"], parts.get("lokr_t2"), tuple(weight.shape[2:]))
    _expect(first.ndim == 2, "its outer factor is no matrix")
    return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second.contiguous())


def _product(a: Tensor, b: Tensor, core: Tensor | None, kernel: tuple[int, ...]) -> Tensor:
    """A matrix of low rank, or a convolution's: a (out, r) @ b (r, in * kh * kw). With a Tucker core (r, r, kh, kw), a
    is (r, out).
    """
    if core is not None:
        return torch.einsum("ijhw,io,jc->ochw", core, a.flatten(1), b.flatten(1))
    product = a.flatten(1) @ b.flatten(1)
    return product.reshape(len(product), -1, *kernel) if kernel else product


def _full(weight: Tensor, parts: Parts) -> Tensor:
    """The difference itself; of a bias and of a norm's weight too."""
    return next(iter(parts.values()))


def _ia3(weight: Tensor, parts: Parts) -> Tensor:
    """(IA)^3 (arXiv 2205.05638): a factor for each input or output channel."""
    factor, on_input = parts["weight"].flatten(), bool(parts["on_input"].flatten().any())
    axis = 1 if on_input else 0
    _expect(len(factor) == weight.shape[axis], "it has not one number for each channel")
    return weight * factor.reshape([-1 if n == axis else 1 for n in range(weight.ndim)])


def _glora(weight: Tensor, parts: Parts) -> Tensor:
    """GLoRA (arXiv 2306.07967): W A + B, both of low rank. In old files the roles of the factors are swapped."""
    a1, a2, b1, b2 = (parts[name].flatten(1) for name in ("a1", "a2", "b1", "b2"))
    if _is_old_glora(weight, parts):
        a1, a2, b1, b2 = a2, a1, b2, b1
    changed = torch.einsum("oi...,ir,rj->oj...", weight, a1, a2)
    _expect(changed.shape == weight.shape, "its factors of the weight do not fit it")
    return changed + (b1 @ b2).reshape(weight.shape)


def _is_old_glora(weight: Tensor, parts: Parts) -> bool:
    return len(parts["b1"]) != len(weight) or len(parts["a1"]) != weight.shape[1]


def _glora_rank(parts: Parts) -> int:
    return min(parts["a1"].shape[:2])


def _oft(weight: Tensor, parts: Parts) -> Tensor:
    """Diagonal OFT (arXiv 2306.07280) and BOFT (arXiv 2311.06243), as LyCORIS computes them: rotations of blocks of the
    output, for BOFT by several butterfly factors. `alpha` bounds their size, `rescale` scales the outputs.
    """
    blocks = parts["oft_blocks"]
    _expect(blocks.ndim in (3, 4), "its blocks are no stack of matrices")
    rotations = _rotations(blocks, parts.get("alpha"), len(weight))
    rotated = _rotate(weight, rotations) if blocks.ndim == 3 else _butterfly(weight, rotations)
    if "rescale" in parts:
        _expect(parts["rescale"].numel() == len(weight), "it has not one scale for each output")
        rotated = rotated * parts["rescale"].reshape(-1, *[1] * (weight.ndim - 1))
    return rotated - weight


def _rotations(blocks: Tensor, alpha: Tensor | None, outputs: int) -> Tensor:
    """Cayley's transform of blocks (..., b, b), whose skew parts together are at most alpha * outputs."""
    skew = blocks - blocks.mT
    if alpha is not None:
        bound, size = alpha.flatten()[0] * outputs, skew.norm() + 1e-8
        skew = torch.where((bound > 0) & (size > bound), skew * (bound / size), skew)
    one = torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
    return (one + skew) @ torch.linalg.inv(one - skew)


def _rotate(weight: Tensor, rotations: Tensor) -> Tensor:
    """Rotations (n, b, b), whose first index is contracted, of n blocks of b outputs."""
    rows = weight.reshape(*rotations.shape[:2], -1)
    return torch.einsum("knm,kni->kmi", rotations, rows).reshape(weight.shape)


def _butterfly(weight: Tensor, rotations: Tensor) -> Tensor:
    """Rotations (factors, n, b, b): factor i joins outputs that are 2^i * b / 2 apart."""
    half = rotations.shape[-1] // 2
    rows = weight.flatten(1)
    for number, each in enumerate(rotations):
        pairs = rows.reshape(-1, 2, 2**number * half, rows.shape[1]).transpose(1, 2)
        turned = torch.einsum("kmn,kni->kmi", each, pairs.reshape(*each.shape[:2], -1))
        rows = turned.reshape(-1, 2**number * half, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)
    return rows.reshape(weight.shape)


def _ready_rotations(weight: Tensor, parts: Parts) -> Tensor:
    """OFT of old versions of LyCORIS: the rotations themselves."""
    return _rotate(weight, parts["oft_diag"]) - weight


def _formula(
    name: str,
    change: Callable[[Tensor, Parts], Tensor],
    needs: str,
    may: str = "",
    rank: Callable[[Parts], int | None] = lambda parts: None,
) -> Formula:
    return Formula(name, change, frozenset(needs.split()), frozenset(may.split()), rank)


def _rows(role: str) -> Callable[[Parts], int]:
    """The rank of a kind whose factor of that role has as many rows."""
    return lambda parts: len(parts[role])


_SCALED = "alpha scale magnitude output_magnitude"
FORMULAS = (
    _formula("LoRA", _lora, "up down", f"mid {_SCALED}", _rows("down")),
    _formula(
        "LoHa", _loha, "hada_w1_a hada_w1_b hada_w2_a hada_w2_b", f"hada_t1 hada_t2 {_SCALED}", _rows("hada_w1_b")
    ),
    _formula("LoKr", _lokr, "lokr_w1 lokr_w2", _SCALED),  # alpha means nothing, whatever the file says
    _formula("LoKr", _lokr, "lokr_w1_a lokr_w1_b lokr_w2", _SCALED, _rows("lokr_w1_b")),
    _formula("LoKr", _lokr, "lokr_w1 lokr_w2_a lokr_w2_b", f"lokr_t2 {_SCALED}", _rows("lokr_w2_b")),
    _formula("LoKr", _lokr, "lokr_w1_a lokr_w1_b lokr_w2_a lokr_w2_b", f"lokr_t2 {_SCALED}", _rows("lokr_w2_b")),
    _formula("full difference", _full, "diff", "alpha"),
    _formula("norm difference", _full, "w_norm"),
    _formula("IA3", _ia3, "weight on_input"),
    _formula("GLoRA", _glora, "a1 a2 b1 b2", "alpha", _glora_rank),
    _formula("OFT", _oft, "oft_blocks", "alpha rescale"),
    _formula("OFT", _ready_rotations, "oft_diag", "alpha"),
)
"""Every kind of adapter; a module is of the first whose roles it has."""
BIASES = ("diff_b", "b_norm")
"""Roles that change the bias of a layer or a norm, beside or without a change of its weight."""


class UnfitError(Exception):
    """The tensors of a module do not fit each other or the weight."""


def _expect(condition: bool, sentence: str) -> None:
    if not condition:
        raise UnfitError(sentence)


def find_formula(roles: frozenset[str]) -> Formula | None:
    """The kind of a module with these roles; None if they are none's, or those of an incomplete one."""
    return next((each for each in FORMULAS if each.needs <= roles <= each.needs | each.may), None)


def unit_change(formula: Formula, weight: Tensor, parts: Parts) -> Tensor:
    """The change of a weight by a module at strength 1, of the weight's shape. Raises `UnfitError`."""
    try:
        change = formula.change(weight, parts)
    except RuntimeError as error:
        raise UnfitError("they do not fit each other or the weight") from error
    _expect(change.numel() == weight.numel() and len(change) == len(weight), "they give a weight of another shape")
    change = _factor(formula, parts) * change.reshape(weight.shape)
    for name in {"magnitude", "output_magnitude"} & parts.keys():
        magnitude = parts[name].flatten() if name == "output_magnitude" else parts[name]
        change = _decomposed(weight + change, magnitude) - weight
    return change


def check_fit(formula: Formula, shape: tuple[int, ...], parts: Parts) -> None:
    """Raise `UnfitError` if a module cannot change a weight of this shape. Only the shapes of `parts` are looked at."""
    if parts.keys() == {"up", "down"}:  # as in most files: products of meta tensors import 800 modules, for seconds
        (out, *rank), (inner, *inputs) = parts["up"].shape, parts["down"].shape
        _expect(prod(rank) == inner, "they do not fit each other or the weight")
        _expect(out == shape[0] and out * prod(inputs) == prod(shape), "they give a weight of another shape")
    else:
        unit_change(formula, torch.empty(shape, dtype=torch.float32, device="meta"), parts)


def _factor(formula: Formula, parts: Parts) -> Tensor | float:
    """alpha / rank; 1 without an alpha. A `scale` replaces both."""
    rank = formula.rank(parts)
    if rank is None:
        return 1.0
    if "scale" in parts:
        return parts["scale"].flatten()[0]
    return parts["alpha"].flatten()[0] / rank if "alpha" in parts else 1.0


def _decomposed(changed: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA (arXiv 2402.09353): the norms of `changed` replaced by magnitudes, of its outputs or of its inputs."""
    shape, flat = changed.shape, magnitude.flatten()
    is_of_inputs = magnitude.ndim > 1 and len(magnitude) == 1
    axis = 1 if is_of_inputs else 0
    _expect(len(flat) == shape[axis], "its magnitudes are neither of the outputs nor of the inputs")
    others = [n for n in range(changed.ndim) if n != axis]
    norm = changed.square().sum(dim=others, keepdim=True).sqrt().clamp(min=torch.finfo(changed.dtype).tiny)
    return changed * (flat.reshape(norm.shape) / norm)
