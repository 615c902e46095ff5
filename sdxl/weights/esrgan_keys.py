"""The names of ESRGAN's generator in the files of three generations of its code, and the config from the shapes.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, product
from math import isqrt

from ..models.esrgan_config import ESRGANConfig
from .identify import Shapes
from .infer import complete, count_of
from .keymap import Row, module_rows

NAME = "upscaler"
"""Of the component, for messages."""
_PREFIXES = ("", "params_ema.", "params.")  # of training code, which keeps the weights once or twice


@dataclass(frozen=True)
class Names:
    """What a generation of the code calls the convolutions. `dense` is one of a dense block, by the number of the RRDB,
    and those of the block and of the convolution from 1; `trunk` comes behind all RRDBs, by their number; `up` is that
    of a doubling, counted from 1 in steps of `every`. `hr` and `last` are the last two: in a list of layers, in which a
    doubling takes three places, they follow the doublings.
    """

    first: str
    dense: str
    trunk: str
    up: str
    hr: str = "model.{}"
    last: str = "model.{}"
    every: int = 1

    def doubling(self, number: int) -> str:
        """The convolution of a doubling, counted from 0."""
        return self.up.format(self.every * (number + 1))


_GENERATIONS = (
    Names("model.0", "model.1.sub.{}.RDB{}.conv{}.0", "model.1.sub.{}", "model.{}", every=3),
    Names("conv_first", "RRDB_trunk.{}.RDB{}.conv{}", "trunk_conv", "upconv{}", "HRconv", "conv_last"),
    Names("conv_first", "body.{}.rdb{}.conv{}", "conv_body", "conv_up{}", "conv_hr", "conv_last"),
)


def is_esrgan(shapes: Shapes) -> bool:
    """Whether a file has ESRGAN's generator."""
    return found_names(shapes) is not None


def found_names(shapes: Shapes) -> tuple[str, Names] | None:
    """The prefix and the names of a file's keys; None without ESRGAN's generator."""
    every = product(_PREFIXES, _GENERATIONS)
    return next((each for each in every if f"{each[0]}{each[1].dense.format(0, 1, 1)}.weight" in shapes), None)


def second_copies(shapes: Shapes, prefix: str) -> frozenset[str]:
    """The keys of the weights that training code keeps beside those under the prefix, their average."""
    averaged, last = _PREFIXES[1:]
    return frozenset(key for key in shapes if prefix == averaged and key.startswith(last))


def infer_esrgan(shapes: Shapes, prefix: str, names: Names) -> ESRGANConfig:
    """The config from the shapes. Raises `CheckpointError`."""
    with complete(NAME):
        width, channels = shapes[f"{prefix}{names.first}.weight"][:2]
        return ESRGANConfig(
            width=width,
            growth=shapes[f"{prefix}{names.dense.format(0, 1, 1)}.weight"][0],
            blocks=count_of(shapes, f"{prefix}{names.dense.format('{}', 1, 1)}.weight"),
            doublings=next(n for n in count() if f"{prefix}{names.doubling(n)}.weight" not in shapes),
            fold=max(isqrt(channels // ESRGANConfig.image_channels), 1),
        )


def esrgan_rows(config: ESRGANConfig, prefix: str = "", names: Names = _GENERATIONS[-1]) -> Iterator[Row]:
    """The parameters, under our names and a file's, by default those of Real-ESRGAN."""
    blocks, end = config.blocks, 3 * config.doublings + 2
    dense = product(range(blocks), range(1, 4), range(1, 6))
    table = {f"body.{n}.rdb{i}.conv{j}": names.dense.format(n, i, j) for n, i, j in dense}
    table |= {"conv_first": names.first, "conv_body": names.trunk.format(blocks)}
    table |= {f"conv_up.{n}": names.doubling(n) for n in range(config.doublings)}
    table |= {"conv_hr": names.hr.format(end), "conv_last": names.last.format(end + 2)}
    for ours, theirs in table.items():
        yield from module_rows(ours, f"{prefix}{theirs}", f"{prefix}{theirs}")
