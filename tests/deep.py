"""The tiny model of conftest.py with two layers in each level, as SDXL has: the nets of `control_nets` are made for it.
A module of tests has its fixtures in the place of conftest's by importing them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

import sdxl

Factory = pytest.TempPathFactory
_MADE: dict[Callable[[Factory], Any], Any] = {}


def _once(make: Callable[[Factory], Any], factory: Factory) -> Any:
    """What all modules of tests share."""
    if make not in _MADE:
        _MADE[make] = make(factory)
    return _MADE[make]


def _reference(_: Factory) -> Any:
    return tiny.pipeline(tiny.UNET, tiny.VAE)


def _folder(factory: Factory) -> Path:
    folder = factory.mktemp("deep") / "base"
    _once(_reference, factory).save_pretrained(folder)
    return folder


def _converted(factory: Factory) -> Path:
    path = factory.mktemp("deep") / "single.safetensors"
    sdxl.convert(_once(_folder, factory), path)
    return path


def _pipe(factory: Factory) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained(_once(_folder, factory), dtype="float32", device="cpu")


def _inpainting(factory: Factory) -> sdxl.Pipeline:
    folder = factory.mktemp("deep") / "inpainting"
    tiny.inpainting(9, tiny.UNET, tiny.VAE).save_pretrained(folder)
    return sdxl.Pipeline.from_pretrained(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="session", name="reference_pipe")
def deep_reference(tmp_path_factory: Factory) -> Any:
    return _once(_reference, tmp_path_factory)


@pytest.fixture(scope="session", name="tiny_folder")
def deep_folder(tmp_path_factory: Factory) -> Any:
    return _once(_folder, tmp_path_factory)


@pytest.fixture(scope="session", name="converted")
def deep_converted(tmp_path_factory: Factory) -> Any:
    return _once(_converted, tmp_path_factory)


@pytest.fixture(scope="session", name="tiny_pipe")
def deep_pipe(tmp_path_factory: Factory) -> Any:
    return _once(_pipe, tmp_path_factory)


@pytest.fixture(scope="session", name="inpainting_pipe")
def deep_inpainting(tmp_path_factory: Factory) -> Any:
    return _once(_inpainting, tmp_path_factory)
