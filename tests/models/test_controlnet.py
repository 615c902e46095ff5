"""ControlNet, union and T2I-Adapter against diffusers' networks of the same weights: residuals and features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from deep import deep_folder  # noqa: F401  fixtures
from torch import Tensor

pytest.importorskip("diffusers")
import control_nets
import tiny

from sdxl.models import ControlNet, Residuals, T2IAdapter, UNetConfig
from sdxl.models.t2i_adapter import as_residuals
from sdxl.pipeline.network_loading import load
from sdxl.runtime.placement import Placement
from sdxl.text import embed_sizes
from sdxl.weights import open_checkpoint
from sdxl.weights.component import Component
from sdxl.weights.control import OpenedControl, open_control

CPU = torch.device("cpu")
PLAIN = Placement(CPU, torch.float32, torch.float32)
NETS: dict[str, Any] = {
    "full": (control_nets.controlnet, control_nets.CONTROLNET),
    "mid": (control_nets.controlnet, control_nets.MID),
    "small": (control_nets.controlnet, control_nets.SMALL),
}


@pytest.fixture(scope="module")
def unet(tiny_folder: Path) -> Component:
    return open_checkpoint(tiny_folder).components["unet"]


def opened(path: Path, unet: Component) -> OpenedControl:
    assert isinstance(unet.config, UNetConfig)
    return open_control(path, unet.config, base=unet)


def inputs(rows: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pooled = torch.randn(rows, 32, generator=generator)
    sizes = torch.tensor([[64.0, 48.0, 0.0, 8.0, 64.0, 64.0]]).expand(rows, -1)
    return {
        "x": torch.randn(rows, 4, 8, 10, generator=generator),
        "t": torch.tensor([801.0, 333.0])[:rows],
        "context": torch.randn(rows, 77, 48, generator=generator),
        "vector": torch.cat([pooled, torch.cat([embed_sizes(row.tolist(), 8) for row in sizes])], dim=1),
        "image": torch.rand(rows, 3, 64, 80, generator=generator),
        "pooled": pooled,
        "sizes": sizes,
    }


def built(control: OpenedControl) -> Any:
    return load(control.component, PLAIN, control.changes)


def ours(net: ControlNet, given: dict[str, Tensor], image: Tensor | None = None) -> Residuals:
    x = given["image"] if image is None else image
    return net(given["x"], given["t"], given["context"], given["vector"], x)


def theirs(net: Any, given: dict[str, Tensor], **more: Any) -> tuple[list[Tensor], Tensor]:
    added = {"text_embeds": given["pooled"], "time_ids": given["sizes"]}
    more = {"controlnet_cond": given["image"]} | more
    found = net(given["x"], given["t"], given["context"], added_cond_kwargs=added, return_dict=False, **more)
    return list(found[0]), found[1]


def assert_equal(ours: Residuals, theirs: tuple[list[Tensor], Tensor], error: Any) -> None:
    assert ours.mid is not None
    assert len(ours.skips) == len(theirs[0]) == 9
    for mine, other in zip([*ours.skips, ours.mid], [*theirs[0], theirs[1]], strict=True):
        assert other.abs().max() > 1e-3
        assert error(mine, other) < 1e-5


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_residuals_and_layouts(name: str, unet: Component, tmp_path: Path, error: Any) -> None:
    """Within 1e-5 of diffusers, and the same bits from every layout."""
    make, config = NETS[name]
    reference, given = make(config), inputs()
    folder = control_nets.save_folder(reference, tmp_path / "net")
    paths = [
        folder,
        control_nets.save(reference.state_dict(), tmp_path / "single.safetensors"),
        control_nets.save(control_nets.ldm(reference), tmp_path / "ldm.safetensors"),
        control_nets.save(control_nets.ldm(reference, "control_model."), tmp_path / "prefix.safetensors"),
    ]
    found = [ours(built(opened(path, unet)), given) for path in paths]
    assert_equal(found[0], theirs(reference, given), error)
    for other in found[1:]:
        assert other.mid is not None
        assert found[0].mid is not None
        assert torch.equal(found[0].mid, other.mid)
        assert all(map(torch.equal, found[0].skips, other.skips))


@pytest.mark.parametrize(("config", "types"), [(control_nets.UNION, [3]), (control_nets.PROMAX, [0, 7])])
@torch.no_grad()
def test_unions(config: dict[str, Any], types: list[int], unet: Component, tmp_path: Path, error: Any) -> None:
    """One type and several at once. All rows have the same image: else diffusers' rows leak into each other."""
    reference, given = control_nets.union(config), inputs()
    images = [torch.rand(1, 3, 64, 80).expand(2, -1, -1, -1) for _ in types]
    flags = torch.zeros(2, config["num_control_type"])
    flags[:, types] = 1
    more = {"controlnet_cond": images, "control_type": flags, "control_type_idx": types}
    wanted = theirs(reference, given, **more)
    folder = control_nets.save_folder(reference, tmp_path / "net")
    bare = control_nets.save(reference.state_dict(), tmp_path / "single.safetensors")
    ldm = control_nets.save(control_nets.ldm(reference), tmp_path / "ldm.safetensors")
    mids = []
    for path in (folder, bare, ldm):
        found = opened(path, unet)
        assert found.types == config["num_control_type"]
        net = built(found)
        vector = net.with_types(given["vector"], types)
        hint = sum(net.encode(image[:1], type) for image, type in zip(images, types, strict=True))
        residuals = net.predict(given["x"], net.embed(given["t"], vector), net.context_kv(given["context"]), hint)
        assert_equal(residuals, wanted, error)
        mids.append(residuals.mid)
    assert torch.equal(mids[0], mids[1])
    assert torch.equal(mids[0], mids[2])


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("size", [(64, 96), (64, 80)])
@torch.no_grad()
def test_t2i_features(channels: int, size: tuple[int, int], unet: Component, tmp_path: Path, error: Any) -> None:
    reference = control_nets.t2i_adapter(channels)
    image = torch.rand(2, channels, *size)
    paths = [
        control_nets.save_folder(reference, tmp_path / "net"),
        control_nets.save(reference.state_dict(), tmp_path / "single.safetensors"),
        control_nets.save(control_nets.tencent(reference), tmp_path / "tencent.safetensors"),
        control_nets.save(control_nets.tencent(reference, "adapter."), tmp_path / "prefix.safetensors"),
    ]
    nets = [built(opened(path, unet)) for path in paths]
    assert all(isinstance(net, T2IAdapter) for net in nets)
    features = [net(image) for net in nets]
    for mine, other in zip(features[0], reference(image), strict=True):
        assert error(mine, other) < 1e-5
    for other in features[1:]:
        assert all(map(torch.equal, features[0], other))


@torch.no_grad()
def test_t2i_features_in_the_unet(unet: Component, error: Any) -> None:
    """They are added inside the contracting half, where diffusers adds them."""
    given, reference = inputs(), control_nets.t2i_adapter()
    features = reference(torch.rand(2, 3, 64, 80)[:, :, :, :80])
    network: Any = load(unet, PLAIN)
    added = {"text_embeds": given["pooled"], "time_ids": given["sizes"]}
    wanted = tiny.unet(tiny.UNET)(
        given["x"],
        given["t"],
        given["context"],
        added_cond_kwargs=added,
        down_intrablock_additional_residuals=[each.clone() for each in features],
        return_dict=False,
    )[0]
    emb, memories = network.embed(given["t"], given["vector"]), network.context_kv(given["context"])
    steered = network.predict(given["x"], emb, memories, as_residuals(features, network.config))
    assert error(steered, wanted) < 1e-5
    assert not torch.equal(steered, network.predict(given["x"], emb, memories))


@torch.no_grad()
def test_sides_that_are_no_multiples_of_16(unet: Component, tmp_path: Path) -> None:
    """Latents of odd sides: the features are as large as the UNet's."""
    path = control_nets.save(control_nets.t2i_adapter().state_dict(), tmp_path / "a.safetensors")
    net, network = built(opened(path, unet)), load(unet, PLAIN)
    features = net(torch.rand(1, 3, 72, 88))
    assert [tuple(each.shape[2:]) for each in features] == [(5, 6), (5, 6), (3, 3), (3, 3)]
    x, contracted = torch.randn(1, 4, 9, 11), as_residuals(features, network.config)  # type: ignore[arg-type]
    given = inputs(1)
    emb, memories = network.embed(given["t"], given["vector"]), network.context_kv(given["context"])  # type: ignore[operator]
    assert network.predict(x, emb, memories, contracted).shape == (1, 4, 9, 11)  # type: ignore[operator]


@torch.no_grad()
def test_blue_green_red(unet: Component, tmp_path: Path) -> None:
    reference, given = control_nets.controlnet(), inputs()
    folder = control_nets.save_folder(reference, tmp_path / "net")
    rgb = ours(built(opened(folder, unet)), given)
    text = (folder / "config.json").read_text()
    order = "controlnet_conditioning_channel_order"
    (folder / "config.json").write_text(text.replace(f'"{order}": "rgb"', f'"{order}": "bgr"'))
    bgr = ours(built(opened(folder, unet)), given, given["image"].flip(1))
    assert rgb.mid is not None
    assert bgr.mid is not None
    assert torch.equal(rgb.mid, bgr.mid)
