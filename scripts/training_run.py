"""The loop that all stages of a training run share: updates, averaged weights, a log, and files to go on from; and the
command line that all such scripts share.

What a step trains on is `data[step]`, made by worker processes some steps ahead.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from sdxl.training.optimizers import cosine_rate, make_optimizers, update_average

LOG_EVERY = 50  # updates

Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Plan:
    """The updates of one stage."""

    updates: int
    batch: int
    rate: float
    warmup: int = 100
    decay: float = 0.995  # of the average: its memory must be short beside the cosine
    fall: int | None = None  # updates after which the rate is zero; None: all


class Stage:
    """A model in training: its optimizers, its averaged weights, and how far it is."""

    def __init__(self, model: nn.Module, plan: Plan, seed: int) -> None:
        self.model, self.plan, self.seed = model, plan, seed
        self.optimizers = make_optimizers(model, plan.rate)
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.step, self.seconds = 0, 0.0

    def update(self, loss: Tensor) -> Tensor:
        """One update from a loss; returns its value, still on the device."""
        rate = self.plan.rate * cosine_rate(self.step, self.plan.fall or self.plan.updates, self.plan.warmup)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        self.model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        update_average(self.average, self.model, self.step, self.plan.decay)
        self.step += 1
        return loss.detach()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the model has its averaged weights."""
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        yield
        self.model.load_state_dict(own)

    def save(self, path: Path) -> None:
        state = {
            "recipe": {**asdict(self.plan), "seed": self.seed},
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> None:
        saved = torch.load(path, map_location=next(iter(self.average.values())).device)
        if saved["recipe"] != {**asdict(self.plan), "seed": self.seed}:
            raise SystemExit(f"{path} is from another recipe ({saved['recipe']}); give another --work or remove it")
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.average, self.step, self.seconds = saved["average"], saved["step"], saved["seconds"]


@dataclass(frozen=True)
class Run:
    """Where a training run keeps what it has, and what its randomness starts from."""

    work: Path
    seed: int
    device: torch.device
    save_every: float = 300.0  # seconds
    workers: int = 0  # processes that draw pictures; 0: the training process itself

    def numpy(self, *place: int) -> np.random.Generator:
        """The generator of one place: a stage's number, a step."""
        return np.random.default_rng([self.seed, *place])

    def torch(self, *place: int) -> torch.Generator:
        """The same for torch."""
        return torch.Generator().manual_seed(int(self.numpy(*place).integers(2**62)))

    def train(
        self,
        name: str,
        model: nn.Module,
        plan: Plan,
        data: Dataset[Batch],
        loss: Callable[..., Tensor],
        preview: Callable[[], None] = lambda: None,
    ) -> None:
        """Run the updates that are left of a stage; leaves the averaged weights in `model`, frozen.

        `loss` gives the loss of the tensors of `data[step]`; `preview` is called with the averaged weights whenever the
        stage is saved.
        """
        path, stage = self.work / f"{name}.pt", Stage(model, plan, self.seed)
        if path.exists():
            stage.load(path)
        recent: list[Tensor] = []
        began, saved = time.monotonic() - stage.seconds, time.monotonic()
        rest = Subset(data, range(stage.step, plan.updates))
        for batch in DataLoader(rest, batch_size=None, num_workers=self.workers):
            recent.append(stage.update(loss(*(each.to(self.device) for each in batch))))
            if stage.step % LOG_EVERY == 0 or stage.step == plan.updates:
                mean = float(torch.stack(recent).mean())  # waits for the device
                stage.seconds = time.monotonic() - began
                self._log(name, stage, mean)
                recent = []
            if time.monotonic() - saved > self.save_every or stage.step == plan.updates:
                stage.save(path)
                with stage.averaged():
                    preview()
                saved = time.monotonic()
        model.load_state_dict(stage.average)
        model.requires_grad_(False).eval()

    def _log(self, name: str, stage: Stage, loss: float) -> None:
        print(f"{name} {stage.step}: loss {loss:.5f}, {stage.seconds:.0f} s", flush=True)
        with (self.work / "losses.csv").open("a", newline="") as file:
            csv.writer(file).writerow([name, stage.step, f"{loss:.6f}", f"{stage.seconds:.1f}"])


def make_parser(doc: str | None, work: str, out: str) -> argparse.ArgumentParser:
    """The flags of every training script, with their defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(work), help="where unfinished work is kept")
    parser.add_argument("--out", type=Path, default=Path(out), help="what is written")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def train_from(flags: argparse.Namespace, train: Callable[[Run], None], **settings: Any) -> None:
    """Train with the flags of `make_parser`, and print how long it took. `settings` are the fields of `Run` that are
    not its defaults.
    """
    began = time.monotonic()
    flags.work.mkdir(parents=True, exist_ok=True)
    train(Run(flags.work, flags.seed, **{"device": torch.device("cpu"), **settings}))
    print(f"done in {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
