"""The real hub code path, against a local stand-in that fails in every way that a network can."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from hub_process import Resolving
from hub_server import COMMIT, Fault, Hub

NAME = "owner/tiny"


@pytest.fixture(scope="module")
def hub(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    shutil.copytree(tiny_folder, folder)
    # other files of a repository, which are not needed
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (folder / "unet/openvino_model.xml").write_text("<xml/>")
    (folder / "README.md").write_text("card")
    shutil.copy(folder / "vae/diffusion_pytorch_model.safetensors", folder / "big_single_file.safetensors")
    for component in ("unet", "vae"):
        plain = folder / component / "diffusion_pytorch_model.safetensors"
        shutil.copy(plain, plain.with_suffix(".fp16.safetensors"))
    server = Hub(NAME, folder)
    yield server
    server.close()


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Any:
    """The command line in a process of its own, since huggingface_hub reads its environment once."""

    def call(*arguments: str, offline: bool = False) -> tuple[int, str]:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache")}
        environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
        flags = ["--prompt", "cat", "--steps", "1", "--quiet", "--device", "cpu", "--output", str(tmp_path / "p.png")]
        command = [sys.executable, "-m", "sdxl", "generate", *flags, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ") or "Traceback" in line]
        return done.returncode, "\n".join(errors)

    return call


NEEDED = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer_2/tokenizer.json",
    "tokenizer_2/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}


@pytest.mark.slow
def test_needed_files_are_downloaded_and_then_cached(run: Any, hub: Hub) -> None:
    hub.reset()
    assert run("--model", NAME, "--dtype", "float32") == (0, "")
    assert hub.requested == NEEDED
    hub.reset()
    assert run("--model", NAME, "--dtype", "float32") == (0, "")
    assert hub.requested == set()
    assert run("--model", NAME, "--dtype", "float32", offline=True) == (0, "")


@pytest.mark.slow
def test_half_precision_takes_the_fp16_files(run: Any, hub: Hub) -> None:
    hub.reset()
    assert run("--model", NAME, "--dtype", "float16") == (0, "")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in hub.requested
    assert "unet/diffusion_pytorch_model.safetensors" not in hub.requested


@pytest.mark.slow
def test_a_component_alone(run: Any, hub: Hub, tiny_folder: Path) -> None:
    hub.reset()
    assert run("--model", str(tiny_folder), "--vae", NAME, "--dtype", "float32") == (0, "")
    weights = {name for name in hub.requested if name.endswith(".safetensors")}
    assert weights == {"vae/diffusion_pytorch_model.safetensors"}


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        (
            "model_index.json",
            {"_class_name": "StableDiffusionPipeline"},
            "holds a StableDiffusionPipeline, not an SDXL",
        ),
        pytest.param(
            "unet/config.json",
            {"class_embed_type": "timestep"},
            "class_embed_type is 'timestep'; only None is supported",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["another pipeline", "another UNet"],
)
def test_no_weights_are_downloaded_for_an_unsupported_model(
    name: str, change: dict[str, Any], sentence: str, run: Any, hub: Hub
) -> None:
    hub.reset()
    good = (hub.folder / name).read_text()
    (hub.folder / name).write_text(json.dumps(json.loads(good) | change))
    try:
        assert sentence in run("--model", NAME)[1]
    finally:
        (hub.folder / name).write_text(good)
    assert not [file for file in hub.requested if file.endswith(".safetensors")]


@pytest.mark.slow
def test_pickles_are_not_downloaded(run: Any, hub: Hub) -> None:
    weights, pickle = (hub.folder / "text_encoder" / name for name in ("model.safetensors", "pytorch_model.bin"))
    weights.rename(pickle)
    hub.reset()
    try:
        error = run("--model", NAME)[1]
    finally:
        pickle.rename(weights)
    assert "has no text_encoder/model.safetensors on the hub, only text_encoder/pytorch_model.bin; pickles" in error
    assert hub.requested == {"model_index.json"}


@pytest.mark.slow
def test_errors(run: Any, hub: Hub, tmp_path: Path) -> None:
    wrong = ("--model", NAME + "/big_single_file.safetensors")
    hub.faults["GET unet/config.json"] = iter([Fault(body=b"<html>log in</html>")])
    for arguments, sentence in [(wrong, "is only a VAE"), (("--model", NAME), "unet/config.json arrived damaged")]:
        status, error = run(*arguments)
        assert status == 1
        assert sentence in error
        assert "Traceback" not in error
        assert not (tmp_path / "p.png").exists()


# The following tests download files alone, which needs neither weights nor torch.

FAULTY = "owner/faulty"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
BIG = "big.safetensors"
CHUNK = 10 * 2**20  # bytes that huggingface_hub receives before it writes
PAGE = Fault(headers={"Content-Type": "text/html"}, body=b"<html>log in first</html>")
LOOP = Fault(302, {"Location": "/api/models/owner/faulty"})
GATED = Fault(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model owner/faulty is restricted."})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub") / "faulty"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    (folder / "unet/config.json").write_text('{"sample_size": 128}')
    (folder / WEIGHTS).write_bytes(random.Random(0).randbytes(100_000))
    (folder / BIG).write_bytes(random.Random(1).randbytes(5 * CHUNK // 2))
    server = Hub(FAULTY, folder)
    yield server
    server.close()


@pytest.fixture
def start(small: Hub, tmp_path: Path) -> Any:
    """Start `sdxl.weights.hub.resolve` in a process of its own."""
    small.reset()

    def call(*arguments: str, limit: int = 0, **settings: str) -> Resolving:
        environment = os.environ | {"HF_ENDPOINT": small.url, "HF_HOME": str(tmp_path / "cache")}
        environment |= {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"} | settings
        return Resolving(arguments or [FAULTY], environment, limit)

    return call


@pytest.fixture
def resolve(start: Any) -> Any:
    """The output of `sdxl.weights.hub.resolve`: the path, or one line with the class and sentence of its error."""

    def call(*arguments: str, **settings: Any) -> str:
        process = start(*arguments, **settings)
        path, errors = process.communicate(timeout=30)
        assert "Traceback" not in errors
        if process.returncode == 0:
            return str(path.strip())
        assert process.returncode == 1
        return str(errors[errors.index("HubError: ") :].strip())

    return call


def same(path: str, small: Hub, *names: str) -> bool:
    """Whether files of a downloaded folder, or the one downloaded file, equal the hub's."""
    pairs = [(Path(path) / name, small.folder / name) for name in names] or [(Path(path), small.folder / BIG)]
    return all(ours.read_bytes() == theirs.read_bytes() for ours, theirs in pairs)


@pytest.mark.parametrize(
    ("arguments", "settings", "sentence"),
    [
        ([FAULTY], {"HF_HUB_OFFLINE": "1"}, "owner/faulty is neither a local path nor in the hub's cache"),
        ([FAULTY], {"HF_HUB_OFFLINE": "1"}, "the hub cannot be reached because HF_HUB_OFFLINE is set"),
        ([FAULTY], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub cannot be reached (.*refused)"),
        (
            [FAULTY + "/" + BIG],
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            "big.safetensors is neither .* cannot be reached",
        ),
        (["owner/nothing"], {}, "neither a local path nor a model on the hub"),
        (["owner/no..thing"], {}, "owner/no..thing cannot be downloaded: [^;]*repo_id[^;]*$"),
        ([FAULTY, "v9"], {}, "no such revision"),
        ([FAULTY + "/nothing.safetensors"], {}, "no such file on the hub: nothing.safetensors; it has big.safetensors"),
    ],
)
def test_missing_models_and_files(arguments: list[str], settings: dict[str, str], sentence: str, resolve: Any) -> None:
    error = resolve(*arguments, **settings)
    assert re.search(sentence, error)
    assert "\n" not in error


FAULTS: list[tuple[str, Fault, str]] = [
    ("GET api", Fault(401), "owner/faulty cannot be downloaded: the hub requires a valid login; run"),
    ("GET api", Fault(403), "owner/faulty cannot be downloaded: the hub refuses access; accept"),
    ("GET api", Fault(404), "owner/faulty cannot be downloaded: the server does not have it"),
    ("GET api", Fault(429), "nor in the hub's cache, and the hub received too many requests"),
    ("GET api", Fault(500), "nor in the hub's cache, and the hub has an internal error (status 500)"),
    ("GET api", PAGE, "nor in the hub's cache, and the answer is not from the hub"),
    ("GET api", Fault(body=b"[]"), "nor in the hub's cache, and the answer is not from the hub"),
    ("GET api", LOOP, "nor in the hub's cache, and the hub's address redirects in a circle"),
    ("GET api", Fault(no_answer=True), "nor in the hub's cache, and the hub does not answer in time"),
    ("GET api", Fault(cut=9), "nor in the hub's cache, and the hub cannot be reached"),
    ("HEAD " + WEIGHTS, Fault(401), WEIGHTS + " cannot be downloaded: the hub requires a valid login; run"),
    ("HEAD " + WEIGHTS, GATED, "owner/faulty is gated; accept its terms"),
    ("HEAD " + WEIGHTS, Fault(503), WEIGHTS + " cannot be downloaded: the hub has an internal error (status 503)"),
    ("HEAD " + WEIGHTS, PAGE, WEIGHTS + " cannot be downloaded: the answer is not from the hub"),
    ("GET " + WEIGHTS, Fault(404), WEIGHTS + " cannot be downloaded: the server does not have it"),
    ("GET " + WEIGHTS, PAGE, WEIGHTS + " arrived damaged (its size"),
    ("GET " + WEIGHTS, Fault(body=bytes(100_000)), WEIGHTS + " arrived damaged (its hash"),
    ("GET unet/config.json", Fault(body=b'{"sample_size": 129}'), "unet/config.json arrived damaged (its hash"),
]
QUICK_FAULTS = FAULTS[0], FAULTS[5], FAULTS[8], FAULTS[-2]


@pytest.mark.parametrize(
    ("request_", "fault", "sentence"),
    [each if each in QUICK_FAULTS else pytest.param(*each, marks=pytest.mark.slow) for each in FAULTS],
)
def test_faults(request_: str, fault: Fault, sentence: str, small: Hub, resolve: Any) -> None:
    small.faults[request_] = repeat(fault)
    begun = time.monotonic()
    error = resolve()
    assert sentence in error
    assert "\n" not in error
    assert time.monotonic() - begun < 20
    small.faults.clear()
    if request_.startswith("GET unet"):
        assert same(resolve(), small, "model_index.json", "unet/config.json", WEIGHTS)


def test_an_address_from_the_browser(small: Hub, resolve: Any) -> None:
    address = f"https://huggingface.co/{FAULTY}"
    assert same(resolve(f"{address}/resolve/main/{BIG}?download=true"), small)
    assert same(resolve(f"{address}/tree/{COMMIT}"), small, "model_index.json", WEIGHTS)
    assert "no such revision" in resolve(f"{address}/blob/v9/{BIG}")


@pytest.mark.slow
def test_the_cache_is_used_where_the_hub_fails(small: Hub, resolve: Any) -> None:
    path, file = resolve(), resolve(FAULTY + "/" + BIG)
    for fault in (Fault(429), Fault(500), PAGE):
        small.faults["GET api"] = repeat(fault)
        assert resolve() == path
    assert resolve(HF_ENDPOINT="http://127.0.0.1:9") == path
    assert resolve(FAULTY + "/" + BIG, HF_HUB_OFFLINE="1") == file


@pytest.mark.parametrize("status", [404, *(pytest.param(status, marks=pytest.mark.slow) for status in (401, 403, 410))])
def test_the_cache_is_used_where_the_hub_refuses(status: int, small: Hub, resolve: Any) -> None:
    path, file = resolve(), resolve(FAULTY + "/" + BIG)
    small.faults["GET api"] = repeat(Fault(status))
    small.requested.clear()
    assert (resolve(), resolve(FAULTY + "/" + BIG)) == (path, file)
    assert not small.requested


def test_half_a_model_without_a_network(small: Hub, resolve: Any) -> None:
    small.faults["GET " + WEIGHTS] = repeat(Fault(404))
    resolve()
    error = resolve(HF_HUB_OFFLINE="1")
    assert f"owner/faulty is incomplete in the hub's cache: {WEIGHTS} is missing" in error


@pytest.mark.slow
def test_a_broken_download_resumes(small: Hub, resolve: Any) -> None:
    small.faults["GET " + BIG] = iter([Fault(cut=6 * CHUNK // 5)])
    assert same(resolve(FAULTY + "/" + BIG), small)
    assert small.ranges[BIG] == [0, CHUNK]
    assert small.sent[BIG] == (small.folder / BIG).stat().st_size + CHUNK // 5


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(reset=True), id="reset"),
        pytest.param(Fault(no_answer=True), id="no answer", marks=pytest.mark.slow),
        pytest.param(Fault(503), id="503", marks=pytest.mark.slow),
    ],
)
def test_a_short_fault_is_retried(fault: Fault, small: Hub, resolve: Any) -> None:
    small.faults["GET " + WEIGHTS] = iter([fault])
    small.faults["HEAD " + WEIGHTS] = iter([fault])
    assert same(resolve(), small, WEIGHTS)


def test_a_second_run_resumes_the_download(small: Hub, resolve: Any) -> None:
    small.faults["GET " + BIG] = iter([Fault(cut=6 * CHUNK // 5), Fault(401)])
    assert "big.safetensors cannot be downloaded: the hub requires a valid login" in resolve(FAULTY + "/" + BIG)
    assert small.ranges.pop(BIG) == [0, CHUNK]
    assert same(resolve(FAULTY + "/" + BIG), small)
    assert small.ranges[BIG] == [CHUNK]


@pytest.mark.slow
def test_two_at_once(small: Hub, start: Any) -> None:
    small.faults["GET " + BIG] = iter([Fault(cut=6 * CHUNK // 5)])  # huggingface_hub resumes after a second
    both = [start(FAULTY + "/" + BIG) for _ in range(2)]
    assert [process.communicate(timeout=30)[0] and process.returncode for process in both] == [0, 0]
    assert small.ranges[BIG] == [0, CHUNK]


def test_a_full_disk(small: Hub, resolve: Any, tmp_path: Path) -> None:
    error = resolve(FAULTY + "/" + BIG, limit=2**20)
    cache = tmp_path / "cache/hub"
    assert f"big.safetensors cannot be saved in the hub's cache {cache}: the disk is full or limits" in error
    assert "free space" in error
    small.ranges.clear()
    assert same(resolve(FAULTY + "/" + BIG), small)
    assert small.ranges[BIG] == [2**20]


def test_a_model_larger_than_the_disk_is_not_downloaded(small: Hub, resolve: Any, tmp_path: Path) -> None:
    small.sizes[WEIGHTS] = 10**18
    error = resolve()
    assert (
        f"owner/faulty does not fit into the hub's cache {tmp_path}/cache/hub: 1e+09 GB are to be downloaded" in error
    )
    assert small.requested == {"model_index.json"}
    small.sizes.clear()
    assert same(resolve(), small, WEIGHTS)


@pytest.mark.parametrize(("setting", "folder"), [("HF_HOME", "file/hub"), ("HF_HUB_CACHE", "file")])
def test_a_cache_that_cannot_be_written(setting: str, folder: str, resolve: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = resolve(**{setting: str(tmp_path / "file")})
    assert f"cannot be saved in the hub's cache {tmp_path}/{folder}: it cannot be written" in error


def test_a_user_without_a_home(resolve: Any) -> None:
    error = resolve(HF_HOME="~no-such-user")
    assert "this user has no home, where the hub's cache would be; set HF_HOME to a folder" in error


def test_a_leftover_that_is_too_long(small: Hub, resolve: Any, tmp_path: Path) -> None:
    name = hashlib.sha256((small.folder / BIG).read_bytes()).hexdigest() + ".incomplete"
    blobs = tmp_path / "cache/hub/models--owner--faulty/blobs"
    blobs.mkdir(parents=True)
    (blobs / name).write_bytes(bytes(3 * CHUNK))
    assert same(resolve(FAULTY + "/" + BIG), small)


@pytest.mark.parametrize("name", [hashlib.sha1(b'{"sample_size": 128}').hexdigest(), "no-hash"])
def test_etags_of_mirrors(name: str, small: Hub, resolve: Any) -> None:
    size = {"X-Linked-Size": str(len('{"sample_size": 128}'))}
    small.faults["HEAD unet/config.json"] = repeat(Fault(200, {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT, **size}))
    assert same(resolve(), small, "unet/config.json")


def test_without_links_nothing_is_stored_twice(resolve: Any, tmp_path: Path) -> None:
    file = Path(resolve(FAULTY + "/" + BIG, HF_HUB_DISABLE_SYMLINKS="1"))
    if file.is_symlink():
        pytest.skip("this huggingface_hub always makes links")
    assert not list((tmp_path / "cache/hub/models--owner--faulty/blobs").iterdir())
