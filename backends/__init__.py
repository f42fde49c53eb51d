"""The devices that forgec knows: one folder each, found by its name.

A backend's folder has ``create() -> Backend`` in its ``__init__.py``. To add one, add its folder.
"""

from __future__ import annotations

import difflib
import pkgutil
from functools import cache
from importlib import import_module

from forgec.errors import TargetError

from .base import Backend

__all__ = ["get", "names", "targets"]

_STAND_IN = "null"
"""The backend of the tests, which is no device."""


@cache
def names() -> tuple[str, ...]:
    """Names of all backends, available here or not, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg))


def targets() -> tuple[str, ...]:
    """Names of the backends that a program can be compiled for: all but the tests' stand-in."""
    return tuple(name for name in names() if name != _STAND_IN)


@cache
def get(name: str) -> Backend:
    """The backend of that name, the same object every time; :class:`TargetError` if there is none."""
    if name not in names():
        near = difflib.get_close_matches(name, targets(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "the targets are " + ", ".join(targets())
        raise TargetError(f"there is no target {name!r}", hint=hint)
    backend: Backend = import_module(f".{name}", __name__).create()
    return backend
