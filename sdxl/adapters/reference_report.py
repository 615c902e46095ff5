"""What `inspect` says of IP-Adapters and image encoders."""

from __future__ import annotations

from pathlib import Path

from ..models.vision_config import IPAdapterConfig, VisionConfig
from ..weights.audit import Report, count_tensors, report_components
from ..weights.component import Component
from ..weights.container import TensorFile, Weights
from ..weights.reference_rows import is_ip_adapter, is_vision
from .image_encoder import encoder_of_files, published_name, read_image_encoder, wanted
from .ip_adapter import canonical_key, read_ip_adapter, refusal


def report_reference(file: TensorFile) -> Report | None:
    """The report of an IP-Adapter or of the file of an image encoder; None for anything else."""
    weights = Weights([file], canonical_key)
    if is_ip_adapter(weights):
        if (found := refusal(weights)) is not None:
            return Report(file.path, f"{found[0]}: not supported", {"all": count_tensors(weights, weights)})
        adapter = read_ip_adapter(file)
        return report_components(file.path, _adapter_kind(adapter), {adapter.name: adapter})
    return _encoder(encoder_of_files([file], file.path), file.path) if is_vision(weights) else None


def report_encoder(path: Path) -> Report:
    """The report of an image encoder's folder."""
    return _encoder(read_image_encoder(path), path)


def _encoder(encoder: Component, path: Path) -> Report:
    assert isinstance(encoder.config, VisionConfig)
    names = "OpenCLIP's names" if encoder.layout == "single" else "transformers' names"
    kind = f"image encoder, {published_name(encoder.config)}, {names}"
    return report_components(path, kind, {encoder.name: encoder})


def _adapter_kind(adapter: Component) -> str:
    config = adapter.config
    assert isinstance(config, IPAdapterConfig)
    kind = "IP-Adapter plus" if config.is_plus else "IP-Adapter"
    return f"{kind}, {config.tokens} tokens of width {config.context_dim}, for {wanted(config)}"
