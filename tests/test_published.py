"""Published files: with or without a prediction type, with stray keys, without a VAE, of any size."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from editing import edit
from safetensors.torch import load_file, save_file

import sdxl
from sdxl.errors import CheckpointError
from sdxl.weights.checkpoint import open_checkpoint
from sdxl.weights.container import TensorFile


def test_marker_keys(single: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for key in ("v_pred", "ztsnr"):
            tensors[key] = torch.zeros(0)
        tensors["denoiser.sigmas"] = torch.zeros(1000)
        del tensors["conditioner.embedders.1.model.logit_scale"]

    path = edit(single, tmp_path / "v.safetensors", change, {"format": "pt"})
    info = open_checkpoint(path).info
    assert (info.schedule.prediction, info.schedule.zero_terminal_snr) == ("v_prediction", True)
    assert (info.schedule.sampler, info.schedule.schedule, info.schedule.steps_offset) == ("euler", "trailing", 1)


PREDICTIONS = [
    ({}, {}, ("epsilon", False)),
    ({"v_pred": torch.zeros(0)}, {}, ("v_prediction", False)),
    ({"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, {}, ("v_prediction", True)),
    ({}, {"modelspec.prediction_type": "v"}, ("v_prediction", False)),
    ({}, {"modelspec.predict_key": "v"}, ("v_prediction", False)),
    ({}, {"modelspec.prediction_type": "epsilon"}, ("epsilon", False)),
    ({}, {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, ("v_prediction", True)),
    ({}, {"ss_v_parameterization": "False", "ss_zero_terminal_snr": "None"}, ("epsilon", False)),
]
UNET_KEY = "model.diffusion_model.out.2.bias"


@pytest.mark.parametrize(
    ("keys", "metadata", "expected"),
    [each if number % 2 else pytest.param(*each, marks=pytest.mark.slow) for number, each in enumerate(PREDICTIONS)],
)
def test_the_prediction_type_of_a_unet(
    keys: dict[str, torch.Tensor],
    metadata: dict[str, str],
    expected: tuple[str, bool],
    single: Path,
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    """The file states it, and a UNet that replaces another one brings it along."""
    whole = edit(single, tmp_path / "whole.safetensors", lambda t: t.update(keys), {"format": "pt", **metadata})
    alone = {key: value for key, value in load_file(whole).items() if "diffusion_model" in key or key in keys}
    save_file(alone, tmp_path / "unet.safetensors", metadata)
    for arguments in ({"model": whole}, {"unet": whole}, {"unet": tmp_path / "unet.safetensors"}):
        pipe = sdxl.Pipeline.from_pretrained(**{"model": tiny_folder, **arguments}, device="cpu", offload="stage")
        schedule = pipe.info.schedule
        assert (schedule.prediction, schedule.zero_terminal_snr) == expected, arguments


def test_a_unet_without_a_prediction_type_changes_none(single: Path, tmp_path: Path) -> None:
    model = edit(single, tmp_path / "v.safetensors", lambda t: t.update(v_pred=torch.zeros(0)), {"format": "pt"})
    alone = {key: value for key, value in load_file(single).items() if "diffusion_model" in key}
    save_file(alone, tmp_path / "unet.safetensors")
    for unet, prediction in ((tmp_path / "unet.safetensors", "v_prediction"), (single, "epsilon")):
        pipe = sdxl.Pipeline.from_pretrained(model, unet=unet, device="cpu", offload="stage")
        assert pipe.info.schedule.prediction == prediction


def test_a_written_file_states_its_prediction_type_for_other_tools(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "folder")
    scheduler = tmp_path / "folder/scheduler/scheduler_config.json"
    both = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | both))
    sdxl.convert(tmp_path / "folder", tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert {"v_pred", "ztsnr"} <= set(again)
    save_file(again, tmp_path / "bare.safetensors")
    schedule = open_checkpoint(tmp_path / "bare.safetensors").info.schedule
    assert (schedule.prediction, schedule.zero_terminal_snr) == ("v_prediction", True)


STRAYS = (
    "conditioner.embedders.1.model.transformer.text_model.embeddings.position_ids",
    "conditioner.embedders.1.model.visual.conv1.weight",
    "first_stage_model.loss.discriminator.main.0.weight",
    "first_stage_model.model_ema.decay",
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
    "cond_stage_model.model.ln_final.weight",
    "model.alphas_cumprod",
    "lvlb_weights",
    "logvar",
    "scale_factor",
    "global_step",
    "epoch",
    "state.global_step",
    "optimizer_states.0.exp_avg",
    "last_lr",
)


def test_stray_keys_of_published_files(single: Path, tmp_path: Path) -> None:
    linear = "conditioner.embedders.1.model.text_projection"

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({key: torch.zeros(1) for key in STRAYS})
        tensors.update(anything=torch.tensor(3.0), some_ids=torch.arange(9), is_merged=torch.tensor(True))
        tensors[linear + ".weight"] = tensors.pop(linear).T.contiguous()

    path = edit(single, tmp_path / "strays.safetensors", change, {"format": "pt"})
    for name, component in open_checkpoint(path).components.items():
        expected = dict(open_checkpoint(single).components[name].tensors())
        assert all(torch.equal(tensor, expected.pop(key)) for key, tensor in component.tensors())
        assert not expected
    report = sdxl.inspect(path)
    assert (report.kind, report.missing, report.unexpected) == ("SDXL base, single file", [], [])
    assert set(report.ignored) >= {*STRAYS, "anything", "some_ids", "is_merged"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora_unet_x.alpha", torch.tensor(4.0)),
        ("model.diffusion_model.steps", torch.tensor(4)),
        ("scaled_fp8", torch.zeros(0).to(torch.float8_e4m3fn)),
        ("sigma_data", torch.tensor(0.5)),
        ("noise_offset", torch.zeros(4)),
    ],
)
def test_a_key_that_may_change_a_model(key: str, value: torch.Tensor, single: Path, tmp_path: Path) -> None:
    path = edit(single, tmp_path / "l.safetensors", lambda t: t.update({key: value}))
    with pytest.raises(CheckpointError, match=f"1 tensors do not belong to this SDXL model: {key}"):
        open_checkpoint(path)
    assert sdxl.inspect(path).unexpected == [key]


def test_values_in_the_place_of_tensors(single: Path, tmp_path: Path) -> None:
    """An epoch that is a plain number in the header, or in its metadata, is ignored and named."""
    data = single.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header |= {"epoch": 5, "pytorch-lightning_version": "2.1", "callbacks": None}
    header["__metadata__"]["steps"] = 3
    text = json.dumps(header).encode()
    path = tmp_path / "epoch.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert open_checkpoint(path).info == open_checkpoint(single).info
    ignored = set(sdxl.inspect(path).ignored) - set(sdxl.inspect(single).ignored)
    assert ignored == {"epoch", "pytorch-lightning_version", "callbacks", "__metadata__['steps']"}
    header[UNET_KEY] = 5
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(CheckpointError, match="begins at byte"):
        open_checkpoint(path)


def test_a_model_without_a_vae(single: Path, tiny_folder: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    """It works with another VAE; its UNet works alone, and so does a VAE beside a UNet."""

    def without(prefix: str) -> Path:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            for key in [key for key in tensors if key.startswith(prefix)]:
                del tensors[key]

        return edit(single, tmp_path / f"without_{prefix}safetensors", change)

    no_vae, no_text = without("first_stage_model."), without("conditioner.")
    with pytest.raises(CheckpointError, match="has no VAE; give one as vae="):
        open_checkpoint(no_vae)
    assert sdxl.inspect(no_vae).kind == "SDXL base, without VAE, single file"
    settings: dict[str, object] = {"dtype": "float32", "device": "cpu"}
    arguments = {"steps": 2, "seed": 3, "output": "tensor", "progress": False, "width": 64, "height": 64}
    expected = tiny_pipe("cat", **arguments).images
    for model, components in (
        (no_vae, {"vae": tiny_folder / "vae"}),
        (tiny_folder, {"unet": no_vae}),
        (tiny_folder, {"unet": no_text}),
        (tiny_folder, {"vae": no_text}),
    ):
        pipe = sdxl.Pipeline.from_pretrained(model, **components, **settings)
        assert torch.equal(pipe("cat", **arguments).images, expected), (model, components)


@pytest.mark.parametrize("start", [b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04"])
def test_a_header_that_begins_as_a_pickle_does(start: bytes, single: Path, tmp_path: Path) -> None:
    data = single.read_bytes()
    length = int.from_bytes(data[:8], "little")
    pad = (int.from_bytes(start, "little") - length) % 2**16
    header = (length + pad).to_bytes(8, "little") + data[8 : 8 + length] + b" " * pad
    (tmp_path / "p.safetensors").write_bytes(header + data[8 + length :])
    assert open_checkpoint(tmp_path / "p.safetensors").info == open_checkpoint(single).info


@pytest.mark.skipif(sys.platform != "linux", reason="other systems reserve no memory")
def test_a_file_larger_than_the_memory(tmp_path: Path) -> None:
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
        pytest.skip("this system reserves memory for every map")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    header = json.dumps({"a": {"dtype": "U8", "shape": [2 * memory], "data_offsets": [0, 2 * memory]}}).encode()
    with (tmp_path / "huge.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * memory)
    assert TensorFile(tmp_path / "huge.safetensors").read("a")[-1] == 0


def test_a_folder_that_may_not_be_read(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    listdir = os.listdir
    for name in ("", "unet", "vae", "text_encoder", "tokenizer"):
        closed = tmp_path / "model" / name

        def listed(folder: Path, closed: Path = closed) -> list[str]:
            if Path(folder) == closed:
                raise PermissionError(errno.EACCES, "Permission denied", str(folder))
            return listdir(folder)

        monkeypatch.setattr(os, "listdir", listed)
        with pytest.raises(CheckpointError, match=f"{closed} cannot be read: Permission denied; check its permissions"):
            open_checkpoint(tmp_path / "model")
