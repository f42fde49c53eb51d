"""Converters from FX targets to IR: the table that lowering looks up and capture asks for what is supported.

A converter is a function of the builder and of those arguments of the operator's schema that it names;
tensors arrive as builder values, everything else as Python values. It returns a value, or a tuple for several
results. A fused op (a function of ``passes.fused``) has the name, operands and attributes of its IR op and
needs none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import fx

from .. import ops  # noqa: F401  (registers the records)
from ..op import OPS

__all__ = ["CONVERTERS", "bind", "is_supported", "lowers", "target_name"]

Converter = Callable[..., Any]
CONVERTERS: dict[str, Converter] = {}
_DIRECT = {aten: record.name for record in OPS.values() for aten in record.aten}


def target_name(target: Any) -> str:
    """``aten.add.Tensor`` for an overload, the bare function name for a fused op."""
    return (
        str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))
    )


def lowers(*names: str) -> Callable[[Converter], Converter]:
    """Register a converter for operators: ``aten.add`` stands for all its overloads, ``aten.add.Tensor`` for
    one."""

    def register(converter: Converter) -> Converter:
        for name in names:
            CONVERTERS[name] = converter
        return converter

    return register


@cache
def find(name: str) -> Converter | str | None:
    """A converter, the name of the IR op that the operator is one to one, or None."""
    if not name.startswith("aten."):
        return CONVERTERS.get(name) or (name if name in OPS else None)
    family = ".".join(name.split(".")[:2])
    return CONVERTERS.get(name) or CONVERTERS.get(family) or _DIRECT.get(family)


def is_supported(target: Any) -> bool:
    """Whether lowering has a converter for an FX target."""
    return find(target_name(target)) is not None


@cache
def _schema(target: Any) -> tuple[list[str], dict[str, Any]]:
    if isinstance(target, torch._ops.OpOverload):
        arguments = target._schema.arguments
        defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}
        return [a.name for a in arguments], defaults
    parameters = inspect.signature(target).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return [p.name for p in parameters], defaults


@cache
def wanted(converter: Converter) -> tuple[str, ...]:
    """The schema arguments that a converter names (all its parameters but the builder)."""
    return tuple(inspect.signature(converter).parameters)[1:]


def bind(node: fx.Node) -> dict[str, Any]:
    """All arguments of a node's operator by name, defaults filled in."""
    names, defaults = _schema(node.target)
    bound = dict(defaults)
    bound.update(zip(names, node.args, strict=False))
    bound.update(node.kwargs)
    return bound
