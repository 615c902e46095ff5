"""The keyword arguments of Python calls: diffusers' names of equal meaning become ours, and all others are errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from ..errors import ArgumentError, brief, warn
from .aliases import advice
from .diffusers_names import CALL, LOAD, Foreign
from .request import Request

Method = TypeVar("Method", bound=Callable[..., Any])


def with_any_others(method: Method) -> Method:
    """Let a method's **arguments be of any type for `typing.get_type_hints`: theirs is known to type checkers alone."""
    parameters = inspect.signature(method).parameters.values()
    others = next(each.name for each in parameters if each.kind is inspect.Parameter.VAR_KEYWORD)
    method.__annotations__[others] = Any
    return method


def with_request_arguments(method: Method) -> Method:
    """Show `Request`'s fields in help() and notebooks where a method takes them as **arguments."""
    shown = inspect.signature(with_any_others(method))
    own = [each for each in shown.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    own = [each.replace(default=each.empty) if each.name == "prompt" else each for each in own]
    taken = {each.name for each in own}
    more = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
        for each in fields(Request)
        if each.name not in taken
    ]
    method.__signature__ = shown.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    return method


def call_arguments(arguments: Mapping[str, Any], **own: Any) -> dict[str, Any]:
    """The given arguments under our names: those of `Request`, and the call's `own`. Raises `ArgumentError`; warns once
    of diffusers' names.
    """
    return _read(arguments, own, CALL, (*(each.name for each in fields(Request)), *own))


def load_arguments(others: Mapping[str, Any], **own: Any) -> dict[str, Any]:
    """The arguments of `from_pretrained`: `own` are those under our names, `others` are diffusers'. Raises
    `ArgumentError`; warns once of diffusers' names.
    """
    return {**own, **_read(others, own, LOAD, tuple(own))}


def _read(
    others: Mapping[str, Any], own: Mapping[str, Any], table: Mapping[str, Foreign], known: Collection[str]
) -> dict[str, Any]:
    """The given arguments, with diffusers' names of equal meaning replaced by ours."""
    given = {**others, **{name: value for name, value in own.items() if value is not None}}
    read, said = {name: value for name, value in given.items() if name not in table}, []
    for name, foreign in table.items():
        if (value := given.get(name)) is None:
            continue
        if foreign.ours is not None:
            if given.get(foreign.ours) is not None:
                raise ArgumentError(f"{name} and {foreign.ours} are both given and mean the same; leave {name} out")
            read[foreign.ours] = _value(name, value, foreign)
            said.append(f"{name} is {foreign.ours} here")
        elif any(value is each for each in foreign.idle):
            said.append(f"{name}={value} changes nothing here")
        else:
            raise ArgumentError(f"{name} is not an argument; {foreign.sentence}")
    if unknown := [name for name in read if name not in known]:
        raise ArgumentError(f"{unknown[0]} is not an argument; {advice(unknown[0], known)}")
    if said:
        warn(f"these are diffusers' names: {', '.join(said)}")
    return read


def _value(name: str, value: Any, foreign: Foreign) -> Any:
    if not foreign.values:
        return value
    if not isinstance(value, str) or value not in foreign.values:
        raise ArgumentError(f"{name} is {brief(value)}; {foreign.sentence}")
    return foreign.values[value]
