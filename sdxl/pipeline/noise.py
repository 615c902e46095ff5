"""The noise of a batch: standard normal tensors from generators, by the conventions of a plan.

An image depends neither on the others of its batch nor on the device, unless one generator draws the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..sampling.brownian import BrownianPath
from ..sampling.philox import Philox
from ..sampling.sampler import Noise as StepNoise
from ..sampling.schedule_formulas import FORMULAS, float32_levels
from .plan import Plan
from .profiles import Place, for_one, record_compat

if TYPE_CHECKING:
    from .variation import BatchNoise

Shape = tuple[int, int, int]
Batch = tuple[int, int, int]


class Source(Protocol):
    """A generator of standard normal numbers."""

    def randn(self, shape: Sequence[int]) -> Tensor:
        """The next tensor of a shape, float32."""
        ...

    def seed(self) -> int:
        """A seed for other noise, which it draws."""
        ...


@dataclass(frozen=True)
class TorchSource:
    """A torch generator as a source."""

    generator: torch.Generator

    def randn(self, shape: Sequence[int]) -> Tensor:
        """The next tensor of a shape, float32, on the generator's device."""
        own = self.generator
        return torch.randn(tuple(shape), generator=own, dtype=torch.float32, device=own.device)

    def seed(self) -> int:
        """A seed for other noise, which it draws."""
        return int(
            torch.randint(2**63 - 1, (), generator=self.generator, dtype=torch.long, device=self.generator.device)
        )


@dataclass(frozen=True)
class Noise:
    """Standard normal tensors (B, C, h, w) for B = `count` images of `shape`, each image's from a source of its own; a
    single one for several images draws the whole batch at once.

    `batch` is the number of the only image in the batch that its source draws, the size of that batch and how many
    source images it has. `shares`: noise for a source image comes from the source of its first result, or from `lead`
    where that is another image's. It `goes_on` in a second pass from where the first one ended.
    """

    sources: Sequence[Source]
    count: int
    shape: Shape
    device: torch.device
    batch: Batch | None = None
    shares: bool = False
    lead: Source | None = None
    goes_on: bool = False

    @property
    def own(self) -> Noise:
        """Itself: the noise of the plan's own seeds."""
        return self

    def first(self) -> Tensor:
        """The noise that the steps start from, (B, C, h, w)."""
        return self.draw()

    def draw(self, sources: int | None = None) -> Tensor:
        """The next tensor (B, C, h, w). Where the noise belongs to so many source images that the batch shares, and one
        source draws the batch or they share theirs, that of each source image.
        """
        if self.batch is not None:
            row, rows, own = self.batch
            return self._spread(self.sources[0], own if sources else rows, rows)[row : row + 1].to(self.device)
        if self.lead is not None:
            drawn = self.lead.randn((1, *self.shape))  # from it all images' generators are in step
            if sources:
                return drawn.expand(self.count, *self.shape).to(self.device)
        if len(self.sources) < self.count:
            return self._spread(self.sources[0], sources or self.count, self.count)
        if sources and self.shares:
            each = self.count // sources
            return torch.cat([self._spread(one, 1, each) for one in self.sources[::each]])
        return torch.cat([one.randn((1, *self.shape)) for one in self.sources]).to(self.device)

    def _spread(self, source: Source, drawn: int, rows: int) -> Tensor:
        """`rows` rows from fewer that are drawn, each for its neighbours."""
        return source.randn((drawn, *self.shape)).to(self.device).repeat_interleave(rows // drawn, dim=0)

    def __call__(self, sigma: float, to: float) -> Tensor:
        """The noise of a step from `sigma` to `to`: the next tensor."""
        return self.draw()

    def resized(self, shape: Shape) -> Noise:
        """The noise of images of another shape, from the same sources, which go on."""
        return replace(self, shape=shape, lead=None, goes_on=True)

    def paths(
        self,
        seeds: Sequence[int],
        sigmas: Sequence[float],
        randn: Callable[[int, Sequence[int]], Tensor] | None = None,
        levels: Mapping[float, float] | None = None,
    ) -> PathNoise:
        """Noise from a path for each image over all of these noise levels, or one for a batch that a single source
        draws by its seed. `seeds` are those of the paths; none: each a number that the image's source draws. `randn`
        and `levels` are those of `BrownianPath` and `PathNoise`.
        """
        low, high = min(filter(None, sigmas)), max(sigmas)
        whole = self.batch is not None or (bool(seeds) and len(self.sources) < self.count)
        if not seeds:
            seeds = [self.sources[i % len(self.sources)].seed() for i in range(self.count)]
        if not whole:
            paths = [BrownianPath(seed, low, high, self.shape, randn) for seed in seeds]
            return PathNoise(paths, self.device, levels=levels or {})
        row, rows = (None, self.count) if self.batch is None else self.batch[:2]
        path = BrownianPath(seeds[0], low, high, (rows, *self.shape), randn)
        return PathNoise([path], self.device, True, row, levels or {})


@dataclass(frozen=True)
class PathNoise:
    """Standard normal tensors (B, C, h, w) from a Brownian path of each image: those of an image depend neither on the
    others nor on the number of steps. A path that `is_whole` is that of a batch, of which a single `row` may be wanted.
    `levels` replaces noise levels by others.
    """

    each: Sequence[BrownianPath]
    device: torch.device
    is_whole: bool = False
    row: int | None = None
    levels: Mapping[float, float] = field(default_factory=dict)

    def __call__(self, sigma: float, to: float) -> Tensor:
        """The noise of a step from `sigma` to `to`."""
        begin, end = (self.levels.get(level, level) for level in (sigma, to))
        drawn = [path(begin, end) for path in self.each]
        if not self.is_whole:
            return torch.stack(drawn).to(self.device)
        return (drawn[0] if self.row is None else drawn[0][self.row : self.row + 1]).to(self.device)


def make_noise(plan: Plan, shape: Shape, device: torch.device, given: Sequence[torch.Generator] | None = None) -> Noise:
    """The noise of a plan for images of a shape (C, h, w), from its seeds, or from `given` generators of the caller.
    Raises `ArgumentError`.
    """
    rules, count = plan.request.conventions, len(plan.seeds)
    shares = rules.posterior == "shared" and plan.request.repaints
    if rules.batch is not None and count > 1:
        raise ArgumentError("compat says the place of one image in its batch; generate one image")
    if given is not None:
        return Noise([TorchSource(each) for each in given], count, shape, device, shares=shares)
    sources = [_source(rules.noise, seed) for seed in plan.source_seeds]
    lead = None if rules.posterior_seed is None else _source(rules.noise, rules.posterior_seed)
    return Noise(sources, count, shape, device, rules.batch, shares, lead)


def second_noise(plan: Plan, noise: Noise, shape: Shape) -> Noise:
    """The noise of a second pass over images of another shape (C, h, w): the first pass's sources go on, or begin
    again, by the conventions.
    """
    if plan.request.conventions.second_pass == "go_on" or not _has_seeds(plan, noise):
        return noise.resized(shape)
    return make_noise(plan, shape, noise.device)


def other_noise(plan: Plan, noise: Noise) -> Noise:
    """The noise of the seeds that a plan's own is varied with, for the images of `noise`."""
    kind = plan.request.conventions.noise
    sources = [_source(kind, seed) for seed in plan.variation_seeds]
    return Noise(sources, noise.count, noise.shape, noise.device)


def step_noise(plan: Plan, noise: BatchNoise) -> Callable[[Sequence[float]], StepNoise]:
    """What gives the noise of the steps of a pass over some sigmas, those of one model's part of the schedule."""
    rules, own = plan.request.conventions, noise.own
    seeds = plan.seeds if _has_seeds(plan, own) and not own.goes_on else ()
    if plan.settings.get("noise") == "tree":
        randn = _philox_randn if rules.tree_noise == "philox" else None
        if rules.tree_range == "run":
            return lambda sigmas: own.paths(seeds, sigmas, randn, _levels(plan, sigmas))
        paths = own.paths(seeds, plan.schedule.sigmas, randn, _levels(plan, plan.schedule.sigmas))
        return lambda sigmas: paths
    kinds = {"card": ("philox", 0), "cpu": ("cpu", 1), "cpu_again": ("cpu", 0)}
    if rules.ensd:
        kinds["go_on"] = rules.noise, rules.ensd
    if rules.step_noise not in kinds or not seeds:
        return lambda sigmas: noise
    kind, more = kinds[rules.step_noise]
    if rules.step_noise == "go_on":  # with ENSD, once for all models
        restarted = _restarted(plan, own, kind, more)
        return lambda sigmas: restarted
    return lambda sigmas: _restarted(plan, own, kind, more)


def _restarted(plan: Plan, noise: Noise, kind: str, more: int) -> Noise:
    """Noise of new sources, whose seeds are `more` than the plan's."""
    return replace(noise, sources=[_source(kind, seed + more) for seed in plan.source_seeds], lead=None)


def known_noise(plan: Plan, noise: Noise, first: Tensor) -> Tensor:
    """The noise of the known part of an image, `first` being the first noise: its own for ComfyUI's ddim."""
    if plan.request.conventions.samplers != "comfyui" or plan.request.sampler != "ddim" or not _has_seeds(plan, noise):
        return first
    return _restarted(plan, noise, "cpu", 1).draw()


def replay_rules(plan: Plan, number: int) -> dict[str, Any]:
    """The `compat` of an image of a plan whose noise depends on the others of its batch, as a record has it."""
    place = Place(number, len(plan.seeds), max(plan.source_count, 1), plan.request.repaints and bool(plan.canvases))
    alone = for_one(plan.request.conventions, place, plan.seeds, plan.one_generator)
    return {} if alone is None else {"compat": record_compat(alone)}


def _has_seeds(plan: Plan, noise: Noise) -> bool:
    """Whether the sources are those of the plan's seeds, not of generators whose numbers no seed gives."""
    made = [one.generator.initial_seed() if isinstance(one, TorchSource) else None for one in noise.sources]
    return all(isinstance(one, Philox) for one in noise.sources) or made == list(plan.source_seeds)


def _source(kind: str, seed: int) -> Source:
    seed %= 2**64
    return Philox(seed) if kind == "philox" else TorchSource(torch.Generator().manual_seed(seed))


def _philox_randn(seed: int, shape: Sequence[int]) -> Tensor:
    return Philox(seed).randn(shape)


def _levels(plan: Plan, sigmas: Sequence[float]) -> Mapping[float, float]:
    """The noise levels at which another tool's dpmpp_sde asks for noise."""
    tool = plan.request.conventions.schedules
    if plan.request.sampler != "dpmpp_sde" or tool not in FORMULAS:
        return {}
    return float32_levels(sigmas, float(plan.settings["r"]), round_trip=tool != "comfyui")
