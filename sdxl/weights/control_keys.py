"""The names of the weights of networks for control images: rows for the table of names. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from ..models.control_config import ControlNetConfig, T2IAdapterConfig
from .keymap import WEIGHT_BIAS, Row, contracting_rows, module_rows
from .ops import Op


def controlnet_rows(config: ControlNetConfig) -> Iterator[Row]:
    """A ControlNet: 844 parameters; 863 keys of a union, whose queries and keys are not used."""
    yield from contracting_rows(config.trunk)
    last = 2 * len(config.hint) - 1  # of the convolutions
    for n in range(last + 1):
        folder = "conv_in" if n == 0 else "conv_out" if n == last else f"blocks.{n - 1}"
        yield from module_rows(f"hint.convs.{n}", f"input_hint_block.{2 * n}", f"controlnet_cond_embedding.{folder}")
    for n in range(len(config.trunk.skip_channels())):
        yield from module_rows(f"zero.{n}", f"zero_convs.{n}.0", f"controlnet_down_blocks.{n}")
    yield from module_rows("zero_mid", "middle_block_out.0", "controlnet_mid_block")
    if config.types:
        yield from _union_rows(config)


def _union_rows(config: ControlNetConfig) -> Iterator[Row]:
    """What a union has beside a ControlNet, under the same names in both layouts."""
    yield _same("union.task_embed.weight", "task_embedding")
    for n in range(config.fusers):
        ours, theirs = f"union.blocks.{n}", f"transformer_layes.{n}"  # sic
        for leaf in WEIGHT_BIAS:
            yield _same(f"{ours}.attn.v.{leaf}", f"{theirs}.attn.in_proj_{leaf}", Op.V)
        for a, b in (("attn.out", "attn.out_proj"), ("norm1", "ln_1"), ("norm2", "ln_2")):
            yield from module_rows(f"{ours}.{a}", f"{theirs}.{b}", f"{theirs}.{b}")
        for a, b in (("up", "mlp.c_fc"), ("down", "mlp.c_proj")):
            yield from module_rows(f"{ours}.{a}", f"{theirs}.{b}", f"{theirs}.{b}")
    yield from module_rows("union.proj", "spatial_ch_projs", "spatial_ch_projs")
    for n in (1, 2):
        name = f"control_add_embedding.linear_{n}"
        yield from module_rows(f"union.type_embed.fc{n}", name, name)


def t2i_adapter_rows(config: T2IAdapterConfig) -> Iterator[Row]:
    """A T2I-Adapter: 38 parameters. `single` are Tencent's names, `folder` diffusers'."""
    yield from module_rows("conv_in", "conv_in", "conv_in")
    width = config.channels[0]
    for i, channels in enumerate(config.channels):
        if channels != width:
            first = f"body.{config.blocks * i}.in_conv"
            yield from module_rows(f"levels.{i}.conv_in", first, f"body.{i}.in_conv")
        width = channels
        for j in range(config.blocks):
            for n in (1, 2):
                yield from module_rows(
                    f"levels.{i}.blocks.{j}.conv{n}",
                    f"body.{config.blocks * i + j}.block{n}",
                    f"body.{i}.resnets.{j}.block{n}",
                )


def _same(ours: str, theirs: str, op: Op = Op.SAME) -> Row:
    return Row(ours, theirs, theirs, op, op)
