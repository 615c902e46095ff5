"""Names that pipelines of diffusers have, as attributes of ours: an error says what does the same here."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError, warn
from .diffusers_names import MEMBERS
from .model_request import ModelRequest
from .request import Request

_NEEDLESS = ("safety_checker", "watermark")  # what some set to None, since there is none here
_NETWORKS = (
    "give unet= and vae= to from_pretrained, or networks of your own to Pipeline.from_networks; pipe.compile() compiles"
)
_ARGUMENTS = {each.name: "give it to a call" for each in fields(Request)} | {
    each.name: "give it to from_pretrained" for each in fields(ModelRequest)
}
_SETTERS = {
    "unet": _NETWORKS,
    "vae": _NETWORKS,
    "text": _NETWORKS,
    "device": "use pipe.to",
    "dtype": "use pipe.to",
    "loras": "use pipe.set_loras",
}


class _Names(type):
    """The type of a class with `DiffusersNames`: its attributes, such as class methods."""

    if not TYPE_CHECKING:  # a type checker that saw it would take any name

        def __getattr__(cls, name: str) -> Any:
            if name in MEMBERS:
                raise _absent(cls.__name__, name)
            return type.__getattribute__(cls, name)


class DiffusersNames(metaclass=_Names):
    """Raises `UnsupportedError` where a name of diffusers is read or set, or where setting an attribute would have no
    effect.
    """

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in MEMBERS:
                raise _absent(type(self).__name__, name)
            return object.__getattribute__(self, name)  # raises again what led here

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _NEEDLESS and value is None:
            warn(f"{name} = None changes nothing here: {MEMBERS[name]}")
        elif name in MEMBERS:
            raise _absent(type(self).__name__, name)
        elif name in _ARGUMENTS or _is_fixed(getattr(type(self), name, None)):
            advice = _SETTERS.get(name) or _ARGUMENTS.get(name) or "it follows from how the model was loaded"
            raise UnsupportedError(f"{name} cannot be set on a {type(self).__name__}; {advice}")
        else:
            super().__setattr__(name, value)


def _is_fixed(attribute: Any) -> bool:
    return isinstance(attribute, property) and attribute.fset is None


def _absent(owner: str, name: str) -> UnsupportedError:
    return UnsupportedError(f"{owner} has no {name}; {MEMBERS[name]}")
