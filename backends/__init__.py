"""The devices that forgec knows: one folder for each family, found by looking.

A backend's folder has in its ``__init__`` the tuple ``TARGETS`` and ``create(target) -> Backend``, and
imports nothing heavy. To add a family of devices, add its folder.
"""

from __future__ import annotations

import difflib
import pkgutil
from functools import cache
from importlib import import_module
from types import ModuleType

from forgec.errors import TargetError

from .base import Backend
from .target import Target

__all__ = ["AUTO", "get", "names", "present", "resolve", "target", "targets"]

AUTO = "auto"
"""Stands for the device that the machine has."""


@cache
def _registry() -> dict[str, tuple[Target, ModuleType]]:
    """Every target by name, with the folder that it comes from."""
    found: dict[str, tuple[Target, ModuleType]] = {}
    for info in pkgutil.iter_modules(__path__):
        if info.ispkg:
            module = import_module(f".{info.name}", __name__)
            found.update((each.name, (each, module)) for each in getattr(module, "TARGETS", ()))
    return dict(sorted(found.items()))


def names() -> tuple[str, ...]:
    """Names of all targets, available here or not, in alphabetical order."""
    return tuple(_registry())


def targets() -> tuple[str, ...]:
    """Names of the targets that a program can be compiled for: all but the tests' stand-in."""
    return tuple(name for name, (each, _) in _registry().items() if not each.stand_in)


def target(name: str) -> Target:
    """What is known of a target without its software; ``name`` may be an alias."""
    return _registry()[resolve(name)][0]


def present() -> tuple[str, ...]:
    """Targets other than the CPU whose device this machine has, ready to run."""
    others = (get(name) for name in targets() if name != "cpu")
    return tuple(each.name for each in others if each.runnable() is None and each.kind == "measured")


def resolve(name: str) -> str:
    """A target's own name for its name or alias; ``auto`` is the device that this machine has, else the CPU.

    :class:`TargetError` if there is none.
    """
    if name.lower() == AUTO:
        return next(iter(present()), "cpu")
    registry = _registry()
    known = {alias: each.name for each, _ in registry.values() for alias in each.aliases}
    known |= {each: each for each in registry}
    if name.lower() in known:
        return known[name.lower()]
    near = difflib.get_close_matches(
        name.lower(), [x for x in known if known[x] in targets()], n=1, cutoff=0.5
    )
    hint = f"did you mean {near[0]!r}?" if near else "the targets are " + ", ".join((AUTO, *targets()))
    raise TargetError(f"there is no target {name!r}", hint=hint)


def get(name: str) -> Backend:
    """The backend of a target, given by name or alias: the same object every time.

    :class:`TargetError` if there is none.
    """
    return _backend(resolve(name))


@cache
def _backend(name: str) -> Backend:
    found, module = _registry()[name]
    backend: Backend = module.create(found)
    return backend
