"""Extensions that clients name beside a request: ControlNet's units are controls and references of ours. There are no
others: switched off they are accepted, else refused.
"""

from __future__ import annotations

from typing import Any

from ...errors import brief
from ..given import Given
from ..problems import refuse
from ..service import Service
from .controlnet import SCRIPT, read_units


async def read_scripts(service: Service, given: Given) -> dict[str, Any]:
    """The fields `control` and `reference`. Raises `RefusedError` (422) for another script that is to act."""
    fields: dict[str, Any] = {}
    name = given.fields.get("script_name")
    if name not in (None, "", "None"):
        raise refuse(422, f"Script {brief(name)} not found", "script_name")
    for each, value in given.mapping("alwayson_scripts").items():
        if each.lower() == SCRIPT and service.catalog.control_dir is not None:
            fields |= await read_units(service, value, given)
        elif _is_active(value):
            raise refuse(422, f"always on script {each[:100]} not found", "alwayson_scripts")
    return fields


def _is_active(script: Any) -> bool:
    """Whether any of its arguments switches a script on. Their first is mostly a switch; units have one each."""
    arguments = script.get("args") if isinstance(script, dict) else script
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    if not isinstance(arguments, list) or not arguments:
        return bool(arguments)
    if arguments[0] in (False, None):
        return False
    return any(_is_on(each) for each in arguments)


def _is_on(argument: Any) -> bool:
    if isinstance(argument, dict):
        switches = [argument[name] for name in ("enabled", "enable", "is_enabled") if name in argument]
        return bool(argument) and all(switches)
    return bool(argument)
