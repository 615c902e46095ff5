"""`serve`: models over HTTP, for pages and for programs."""

from __future__ import annotations

import argparse
import logging
import os
import signal
from dataclasses import fields
from typing import Any

from ..errors import ArgumentError
from ..pipeline.model_request import DEFAULT_MODEL, ModelRequest
from ..weights.path import expanded
from .batch import read_batch_size
from .console import note
from .interrupts import on_hangup
from .options import add_flag, default_model, given_model, model_request
from .parser import Parser, command

_EPILOG = """\
examples:
  sdxl serve --model miniature
  sdxl serve --model sd_xl_base_1.0.safetensors --model other.safetensors --lora-dir loras
  SDXL_API_KEY=... sdxl serve --host 0.0.0.0 --allow-host images.example.com

environment:
  SDXL_API_KEY, SDXL_AUTH  --api-key and --auth, which would be seen in the list of processes

exit status:
  0   ended by SIGTERM, by Ctrl-C, or because the terminal was closed
  1   an error: the model, the address
  2   wrong arguments
  70  a GPU has failed; start it again"""
_NOT_OURS = ("model", "device")  # repeated here, and several
_ACCESS = {
    "host": ("ADDRESS", str, "where to listen (default: 127.0.0.1, this machine alone)"),
    "port": ("N", int, "the port (default: 7860)"),
    "allow_hosts": ("NAME", str, "a further name of this host, such as that of a proxy; several times"),
    "api_key": ("KEY", str, "ask for this key; @FILE reads it from a file"),
    "auth": ("USER:PASS", str, "ask for user and password; @FILE reads them from a file"),
    "cors": ("ORIGIN", str, "let pages of this origin ask, such as https://example.com; several times"),
}
_LIMITS = {
    "queue": ("N", int, "jobs that wait; then 429 (default: 32)"),
    "batch_size": (
        "N",
        str,
        "waiting jobs of one image that share a call, if they differ in texts and seeds alone; auto for as many as fit "
        "into memory and make this device faster (default: 1)",
    ),
    "keep": ("N", int, "jobs whose images are kept in memory, for an hour (default: 100)"),
    "max_pixels": ("N", int, "pixels of an image (default: 2048 x 2048)"),
    "max_steps": ("N", int, "steps of an image (default: 150)"),
    "max_images": ("N", int, "images of a job (default: 16)"),
    "max_body": ("MIB", int, "size of a request (default: 32)"),
}
_REPEATED = {"allow_hosts": "allow_host", "cors": "cors"}
_SECRETS = {"api_key": "SDXL_API_KEY", "auth": "SDXL_AUTH"}


def serve_parser() -> Parser:
    """The command and its flags."""
    parser = command("serve", "Serve models over HTTP.", _EPILOG, "[flags]")
    parser.add_argument(
        "--model",
        dest="models",
        action="append",
        default=[],
        metavar="TEXT",
        help=f"as in generate; given several times, clients choose by name (default: {DEFAULT_MODEL})",
    )
    parser.add_argument("--devices", metavar="D,D,...", help="a worker for each, such as cuda:0,cuda:1")
    for title, flags in (("who may ask", _ACCESS), ("limits", _LIMITS)):
        group = parser.add_argument_group(title)
        for name, (metavar, kind, help) in flags.items():
            _add(group, name, metavar, kind, help)
        if flags is _ACCESS:
            group.add_argument("--insecure", action="store_true", help="let everybody in who can reach the host")
    models = parser.add_argument_group("the models, and how they are computed")
    for each in fields(ModelRequest):
        if each.name not in _NOT_OURS:
            add_flag(models, each)
    preview = {each.name: each for each in fields(ModelRequest)}["preview_vae"]
    models.add_argument(
        "--preview-vae", metavar="FILE", default=argparse.SUPPRESS, help=preview.metadata["option"].help
    )
    parser.set_defaults(run=_serve)
    return parser


def _add(group: Any, name: str, metavar: str, kind: type, help: str) -> None:
    flag = f"--{_REPEATED.get(name, name)}".replace("_", "-")
    action = "append" if name in _REPEATED else "store"
    group.add_argument(flag, dest=name, action=action, type=kind, metavar=metavar, help=help, default=argparse.SUPPRESS)


def _serve(options: argparse.Namespace) -> int:
    from ..serve.run import Process, address, check_extra, listen

    check_extra()
    from ..serve.catalog import make_catalog
    from ..serve.service import make_service
    from ..weights.hub import check_source

    settings = _settings(options)
    given = given_model(options)
    names = options.models or [default_model().get("model", DEFAULT_MODEL)]
    for name in names:  # also those that are loaded when a client asks for them
        check_source(name)
    catalog = make_catalog([model_request(options, {**given, "model": os.path.expanduser(name)}) for name in names])
    _print_log()
    listener = listen(settings)
    note(f"listening on {address(listener)}; loading {next(iter(catalog.models))}")
    process = Process(make_service(settings, catalog), listener)
    for number in (signal.SIGINT, signal.SIGTERM):  # those of uvicorn act while it serves, not before and after it
        signal.signal(number, lambda *_: process.close())
    on_hangup(process.close)
    return process.run()


def _settings(options: argparse.Namespace) -> Any:
    from ..serve.settings import MIB, Settings

    given = {name: getattr(options, name) for name in (*_ACCESS, *_LIMITS) if hasattr(options, name)}
    given |= {name: tuple(given[name]) for name in _REPEATED if name in given}
    if "batch_size" in given:
        given["batch_size"] = read_batch_size(given["batch_size"])
    if "max_body" in given:
        given["max_body"] *= MIB
    for name, variable in _SECRETS.items():
        secret = _secret(name, given.get(name, os.environ.get(variable) or None))
        given |= {} if secret is None else {name: secret}
    if options.devices is not None:
        devices = tuple(each.strip() for each in options.devices.split(","))
        if not all(devices):
            raise ArgumentError(f"--devices is {options.devices}; expected names such as cuda:0,cuda:1")
        given["devices"] = devices
    return Settings(insecure=options.insecure, **given)


def _secret(name: str, value: str | None) -> str | None:
    """A secret, or that in a file."""
    if value is None or not value.startswith("@"):
        return value
    try:
        return expanded(value[1:]).read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(f"the file of --{name.replace('_', '-')} cannot be read: {reason}; give @FILE") from error


class _Lines(logging.Handler):
    """Prints the records of the service to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, with the traceback of an error that is not expected."""
        note(*self.format(record).splitlines())


def _print_log() -> None:
    handler = _Lines()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for name in ("sdxl.serve", "uvicorn.error"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(logging.INFO if name == "sdxl.serve" else logging.WARNING)
