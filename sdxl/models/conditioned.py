"""A UNet with its conditioning: all that follows from the conditioning alone is computed once for all steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby, pairwise

import torch
from torch import Tensor, nn

from .controlnet import ControlNet
from .layers import Attention, Shifted, Source
from .lllite import Shift
from .unet import NO_RESIDUALS, Contracting, Memory, Residuals, UNet, total


@dataclass(frozen=True)
class Conditioning:
    """The UNet's input beside latents and timestep: context (B, L, D) and vector (B, V). Where the rows have contexts
    of several lengths, `context` is a tuple of (rows, L, D) in the order of the rows.

    `is_zero` says that the context is zeros, so that no attention to it needs to be computed.
    """

    context: Tensor | tuple[Tensor, ...]
    vector: Tensor
    is_zero: bool = False

    @property
    def groups(self) -> tuple[Tensor, ...]:
        """The contexts of neighbouring rows of one length."""
        return self.context if isinstance(self.context, tuple) else (self.context,)

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditioning:
        """The same on a device and in a dtype."""
        moved = tuple(group.to(device, dtype) for group in self.groups)
        return replace(self, context=moved[0] if len(moved) == 1 else moved, vector=self.vector.to(device, dtype))


@dataclass(frozen=True)
class ConditionedUNet:
    """A UNet, or a ControlNet, with the embeddings of its timesteps and the memories of its blocks.

    A batch holds B rows for each of its `branches`, one branch after the other: (len(branches) * B, ...). `scales` are
    the guidance scales that are embedded with the timesteps, where the UNet takes them. `steers` are ControlNets that
    run before it, and `added` is what other controls add, the same in each step. `beside` are the networks in the
    `shifts` of its memories.
    """

    unet: Contracting
    branches: tuple[str, ...]
    vector: Tensor  # of all rows, as in `Conditioning`
    embs: Mapping[float, Tensor]  # of each timestep, (rows, emb_dim)
    memories: Sequence[Memory]
    scales: Mapping[float, float] = field(default_factory=dict)
    steers: tuple[Steer, ...] = ()
    added: Residuals = NO_RESIDUALS
    beside: tuple[nn.Module, ...] = ()

    @property
    def networks(self) -> list[nn.Module]:
        """All that run in a step."""
        return [self.unet, *(steer.net for steer in self.steers), *self.beside]

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The raw output of the UNet (rows, out_channels, H, W) for scaled latents x at timestep t."""
        return self.predict(x, self.step(t))

    def step(self, t: float) -> list[Tensor]:
        """All that depends on the timestep: the embedding, and that of each ControlNet."""
        return [self.emb(t), *(steer.conditioned.emb(t) for steer in self.steers)]

    def predict(self, x: Tensor, step: Sequence[Tensor]) -> Tensor:
        """The raw output, with the result of `step`."""
        assert isinstance(self.unet, UNet)
        own = [steer(x, emb) for steer, emb in zip(self.steers, step[1:], strict=True)]
        return self.unet.predict(x, step[0], self.memories, total([self.added, *own]))

    def without_steps(self) -> ConditionedUNet:
        """The same without what `step` gives and is made from, and without the names of the branches."""
        steers = tuple(replace(steer, conditioned=steer.conditioned.without_steps()) for steer in self.steers)
        names = ("",) * len(self.branches)
        return replace(self, branches=names, vector=self.vector[:0], embs={}, scales={}, steers=steers)

    def emb(self, t: float) -> Tensor:
        """The embedding of a timestep, (rows, emb_dim); computed now if it is not among the timesteps of the steps."""
        if t in self.embs:
            return self.embs[t]
        times = torch.full((len(self.vector),), t, dtype=torch.float32, device=self.vector.device)
        if not self.scales:
            return self.unet.embed(times, self.vector)
        begun = min((each for each in self.scales if each >= t), default=max(self.scales))  # the step of this time
        return self.unet.embed(times, self.vector, torch.full_like(times, self.scales[begun]))

    def select(self, branches: tuple[str, ...]) -> ConditionedUNet:
        """The same for some of its branches, in their order here."""
        if branches == self.branches:
            return self
        count = len(self.vector) // len(self.branches)
        numbers = [self.branches.index(name) for name in branches]
        rows = [slice(n * count, (n + 1) * count) for n in numbers]
        return replace(
            self,
            branches=branches,
            vector=_take(self.vector, rows),
            embs={t: _take(emb, rows) for t, emb in self.embs.items()},
            memories=[_take_memory(memory, rows) for memory in self.memories],
        )


@dataclass(frozen=True)
class Steer:
    """A ControlNet for the batch of a UNet. It runs for the branches for which `acts` is true; `conditioned` has these
    alone. `hint` is what it sees of the control images, (rows or 1, C, h, w). Its residuals are multiplied by
    `factors`: one for each skip connection, and a last one for the middle block.
    """

    net: ControlNet
    conditioned: ConditionedUNet
    hint: Tensor
    factors: tuple[float, ...]
    acts: tuple[bool, ...]

    def __call__(self, x: Tensor, emb: Tensor) -> Residuals:
        """What it adds for the UNet's input x; it sees no channels beside the latents."""
        latents = x[:, : self.net.config.in_channels]
        if not all(self.acts):
            parts = latents.chunk(len(self.acts))
            latents = torch.cat([part for part, acts in zip(parts, self.acts, strict=True) if acts])
        residuals = self.net.predict(latents, emb, self.conditioned.memories, self.hint)
        assert residuals.mid is not None
        *skips, mid = (self._spread(each, n) for n, each in enumerate([*residuals.skips, residuals.mid]))
        return Residuals(skips, mid)

    def _spread(self, residual: Tensor, number: int) -> Tensor:
        """A residual at its strength, with zeros for the other branches."""
        factor = self.factors[number]
        residual = residual if factor == 1 else residual * factor
        if all(self.acts):
            return residual
        parts = iter(residual.chunk(sum(self.acts)))
        zeros = torch.zeros_like(residual[: len(residual) // sum(self.acts)])
        return torch.cat([next(parts) if acts else zeros for acts in self.acts])


def precompute(
    unet: Contracting,
    conditionings: Mapping[str, Conditioning],
    timesteps: Sequence[float],
    scales: Sequence[float] = (),
) -> ConditionedUNet:
    """Condition a UNet for the branches of its batch, by name and in order, on the timesteps of all steps, and on the
    guidance scale of each where it takes that.

    Branches whose context is zero come first.
    """
    parts = list(conditionings.values())
    with_text = [part for part in parts if not part.is_zero] or parts[-1:]  # an attention to nothing has no shape
    assert all(part is other for part, other in zip(parts[len(parts) - len(with_text) :], with_text, strict=True))
    vector = torch.cat([part.vector for part in parts])
    groups = _joined([group for part in with_text for group in part.groups])
    times = torch.tensor(timesteps, dtype=torch.float32, device=vector.device).repeat_interleave(len(vector))
    scale = torch.tensor(scales, dtype=torch.float32, device=vector.device).repeat_interleave(len(vector))
    embs = torch.split(unet.embed(times, vector.repeat(len(timesteps), 1), scale if len(scales) else None), len(vector))
    starts = list(accumulate(map(len, groups), initial=len(vector) - sum(map(len, groups))))
    each = [unet.context_kv(group, first=start) for group, start in zip(groups, starts[:-1], strict=True)]
    memories = [Memory(tuple(source for memory in same for source in memory.cross)) for same in zip(*each, strict=True)]
    return ConditionedUNet(
        unet,
        tuple(conditionings),
        vector,
        dict(zip(timesteps, embs, strict=True)),
        memories,
        dict(zip(timesteps, scales, strict=True)) if scales else {},
    )


def with_sources(conditioned: ConditionedUNet, more: Sequence[Sequence[Source]]) -> ConditionedUNet:
    """The same whose transformer blocks attend to further sources, those of each block in the order of running."""
    pairs = zip(conditioned.memories, more, strict=True)
    return replace(conditioned, memories=[replace(memory, cross=(*memory.cross, *own)) for memory, own in pairs])


def with_shifts(conditioned: ConditionedUNet, net: nn.Module, shifts: Mapping[str, Shift]) -> ConditionedUNet:
    """The same with a network's changes of the inputs of projections, behind those that it has. They have the
    projections' names in the UNet, such as `down.1.attn.0.blocks.0.self_attn.q`.
    """
    pairs = zip(conditioned.unet.config.block_names(), conditioned.memories, strict=True)
    memories = [_with_shifts(name, memory, shifts) for name, memory in pairs]
    return replace(conditioned, memories=memories, beside=(*conditioned.beside, net))


def _with_shifts(block: str, memory: Memory, shifts: Mapping[str, Shift]) -> Memory:
    own = {name.removeprefix(f"{block}."): shift for name, shift in shifts.items() if name.startswith(f"{block}.")}
    return replace(memory, shifts={**memory.shifts, **{n: (*memory.shifts.get(n, ()), own[n]) for n in own}})


@dataclass(frozen=True)
class IdentityMap:
    """Self-attention in which each token of the last rows of a batch sees itself alone (PAG, arXiv 2403.17377): all
    rows but those of the first `plain` of `total` branches.
    """

    plain: int
    total: int

    def __call__(self, attention: Attention | Shifted, x: Tensor) -> list[Source]:
        """The sources of the layer for its input x (B, L, C)."""
        first = len(x) * self.plain // self.total
        own = Source(None, attention.source(x[first:]).values, first)
        return [attention.source(x[:first]), own] if first else [own]


def perturb(
    conditioned: ConditionedUNet, is_perturbed: Callable[[str], bool], takes: Callable[[str], bool]
) -> ConditionedUNet:
    """The same with identity maps for the branches that are perturbed, which are the last ones, in those transformer
    blocks that are taken by name.
    """
    plain = sum(not is_perturbed(branch) for branch in conditioned.branches)
    total = len(conditioned.branches)
    if plain == total:
        return conditioned
    names = conditioned.unet.config.block_names()
    own = IdentityMap(plain, total)
    pairs = zip(names, conditioned.memories, strict=True)
    return replace(
        conditioned, memories=[replace(memory, own=own) if takes(name) else memory for name, memory in pairs]
    )


def _joined(groups: Sequence[Tensor]) -> list[Tensor]:
    """Contexts (rows, L, D) of neighbouring rows, those of one length as one."""
    return [torch.cat(list(same)) for _, same in groupby(groups, lambda group: group.shape[1])]


def _take(x: Tensor, rows: Sequence[slice]) -> Tensor:
    """Rows of a tensor: a view where they are neighbours."""
    if all(a.stop == b.start for a, b in pairwise(rows)):
        return x[rows[0].start : rows[-1].stop]
    return torch.cat([x[part] for part in rows])


def _take_memory(memory: Memory, rows: Sequence[slice]) -> Memory:
    taken = [each for source in memory.cross for each in _take_source(source, rows)]
    return replace(memory, cross=tuple(taken))


def _take_source(source: Source, rows: Sequence[slice]) -> list[Source]:
    """The parts of a source that belong to some rows of the batch: one where they stand together."""
    found: list[tuple[int, list[slice]]] = []  # the first row in the new batch, and the rows of the source
    at = 0
    for part in rows:
        start, stop = (min(max(edge - source.first, 0), len(source.values)) for edge in (part.start, part.stop))
        place = at + max(source.first - part.start, 0)
        at += part.stop - part.start
        if stop <= start:
            continue
        if found and found[-1][0] + sum(own.stop - own.start for own in found[-1][1]) == place:
            found[-1][1].append(slice(start, stop))
        else:
            found.append((place, [slice(start, stop)]))
    return [_part(source, first, own) for first, own in found]


def _part(source: Source, first: int, rows: Sequence[slice]) -> Source:
    weight = _take(source.weight, rows) if isinstance(source.weight, Tensor) else source.weight
    keys = None if source.keys is None else _take(source.keys, rows)
    return Source(keys, _take(source.values, rows), first, weight)
