"""What a UNet is, as data. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from .bounds import MOST_DEPTH, MOST_SIDE, MOST_WIDTH, bound


@dataclass(frozen=True)
class Block:
    """One residual block of the UNet and the spatial transformer behind it.

    `depth` counts the transformer's blocks: None means no transformer, 0 one without blocks (norm, proj_in, proj_out).
    """

    in_channels: int
    out_channels: int
    depth: int | None
    heads: int


@dataclass(frozen=True)
class UNetConfig:
    """The UNet (SDXL paper, section 2.1 and table 1). The defaults are the base model's.

    `down[level][block]` and `up[level][block]` are transformer depths, None where there is no transformer; `up` starts
    at the lowest resolution. `mid` is the depth of the middle block, -1 means that it is one residual block alone, None
    that there is no middle block. `heads` counts attention heads per level, `sample_size` is the native (height, width)
    in latents. `guidance_dim` is the width of the embedded guidance scale, for a UNet that takes it as an input (LCM).
    """

    in_channels: int = 4
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280)
    down: tuple[tuple[int | None, ...], ...] = ((None, None), (2, 2), (10, 10))
    mid: int | None = 10
    up: tuple[tuple[int | None, ...], ...] = ((10, 10, 10), (2, 2, 2), (None, None, None))
    heads: tuple[int, ...] = (5, 10, 20)
    context_dim: int = 2048
    vector_dim: int = 2816
    size_dim: int = 256
    norm_groups: int = 32
    norm_eps: float = 1e-5
    sample_size: tuple[int, int] = (128, 128)
    guidance_dim: int | None = None

    def __post_init__(self) -> None:
        levels = len(self.channels)
        if not levels or {len(self.down), len(self.up), len(self.heads)} != {levels}:
            raise ConfigError(
                f"the UNet's lists differ in length: {levels} channels, {len(self.down)} down levels, "
                f"{len(self.up)} up levels, {len(self.heads)} head counts; download its config again"
            )
        if [len(level) + 1 for level in self.down] != [len(level) for level in reversed(self.up)]:
            raise ConfigError(
                "each up level of the UNet needs one block more than its down level; download its config again"
            )
        middle = 0 if self.mid == -1 else self.mid
        depths = [depth or 0 for level in (*self.down, *self.up, (middle,)) for depth in level]
        widths = (self.in_channels, self.out_channels, self.context_dim, self.vector_dim, self.size_dim)
        if self.guidance_dim is not None:
            bound("the width of the embedded guidance scale", [self.guidance_dim], MOST_WIDTH, least=4)
        bound("transformer layers of the UNet", [sum(depths), min(depths)], MOST_DEPTH, least=0)
        bound("channels and widths of the UNet", (*self.channels, *widths), MOST_WIDTH)
        bound("heads and norm groups of the UNet", (*self.heads, self.norm_groups), MOST_WIDTH)
        bound("the UNet's norm_eps", [self.norm_eps], 1, least=0)
        bound("the UNet's sample_size", self.sample_size, MOST_SIDE)
        if self.channels[0] % 2:
            raise ConfigError(f"the UNet's first level has {self.channels[0]} channels; it must be an even number")
        for blocks in self.down_blocks() + self.up_blocks():
            for block in blocks:
                if block.out_channels % self.norm_groups or (block.depth and block.out_channels % block.heads):
                    raise ConfigError(
                        f"a UNet level of {block.out_channels} channels does not divide into {self.norm_groups} "
                        f"norm groups and {block.heads} attention heads; download its config again"
                    )

    @property
    def emb_dim(self) -> int:
        """Width of the embedding of time and vector conditioning."""
        return 4 * self.channels[0]

    def block_names(self) -> list[str]:
        """The names of all transformer blocks, in the order in which they run."""
        levels = [*((f"down.{n}", level) for n, level in enumerate(self.down)), ("mid", (self.mid,))]
        levels += [(f"up.{n}", level) for n, level in enumerate(self.up)]
        return [
            f"{level}.attn.{n}.blocks.{k}"
            for level, depths in levels
            for n, depth in enumerate(depths)
            for k in range(depth or 0)
        ]

    def level_of(self, block: str) -> int:
        """The level of a transformer block, or of a part of it, by its name: how often the latents are halved there."""
        half, *rest = block.split(".")
        last = len(self.channels) - 1
        return last if half == "mid" else int(rest[0]) if half == "down" else last - int(rest[0])

    def down_blocks(self) -> list[list[Block]]:
        """The blocks of the contracting path, level by level."""
        width, levels = self.channels[0], []
        for channels, depths, heads in zip(self.channels, self.down, self.heads, strict=True):
            inputs = [width] + [channels] * (len(depths) - 1)
            levels.append([Block(i, channels, d, heads) for i, d in zip(inputs, depths, strict=True)])
            width = channels
        return levels

    def skip_channels(self) -> list[int]:
        """The channels of each skip connection, from the highest resolution to the lowest."""
        skips = [self.channels[0]]
        for level, blocks in enumerate(self.down_blocks()):
            skips += [block.out_channels for block in blocks]
            skips += [self.channels[level]] if level < len(self.channels) - 1 else []
        return skips

    def up_blocks(self) -> list[list[Block]]:
        """The blocks of the expanding path from the lowest resolution; inputs count the skip connection."""
        skips = self.skip_channels()
        width, levels = self.channels[-1], []
        for channels, depths, heads in zip(reversed(self.channels), self.up, reversed(self.heads), strict=True):
            blocks = []
            for depth in depths:
                blocks.append(Block(width + skips.pop(), channels, depth, heads))
                width = channels
            levels.append(blocks)
        return levels
