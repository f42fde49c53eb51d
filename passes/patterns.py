"""A small pattern language over FX nodes.

``Op(targets, ...)`` matches a call by its positional arguments, ``Any_("x")`` captures whatever stands there
(the same node if the name occurs twice), ``Number(0.5)`` a Python number or a rank-0 constant of that value,
``Number("eps")`` captures one. Both orders of a commutative op are tried. Every node inside a match but the
root must have no user outside it, so that a rewrite makes all of them dead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from .base import Context

__all__ = ["ADD", "MUL", "Any_", "Match", "Number", "Op", "match_pattern", "number", "plain"]

aten = torch.ops.aten
ADD = (aten.add.Tensor, aten.add.Scalar)
MUL = (aten.mul.Tensor, aten.mul.Scalar)
_COMMUTATIVE = {*ADD, *MUL}


@dataclass(frozen=True)
class Any_:
    """Captures the argument under a name."""

    name: str


@dataclass(frozen=True)
class Number:
    """A scalar equal to ``value`` (relative tolerance 1e-6), or any scalar captured under a name."""

    value: float | str


class Op:
    """A call of one of the targets with matching leading positional arguments."""

    def __init__(self, targets: Any, *args: Any) -> None:
        self.targets = targets if isinstance(targets, tuple) else (targets,)
        self.args = args


@dataclass
class Match:
    """Captured values by name, and the nodes that the pattern covers."""

    values: dict[str, Any]
    nodes: list[fx.Node]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


def number(value: Any, context: Context) -> float | None:
    """The value of a Python number or a rank-0 constant, or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    tensor = context.constant(value)
    return float(tensor) if tensor is not None and tensor.numel() == 1 and tensor.ndim == 0 else None


def match_pattern(pattern: Op, node: fx.Node, context: Context) -> Match | None:
    """Match a pattern with its root at a node."""
    for values, nodes in _alternatives(pattern, node, {}, context):
        inner = set(nodes)
        if all(n is node or all(user in inner for user in n.users) for n in nodes):
            return Match(values, nodes)
    return None


def _alternatives(pattern: Any, value: Any, bound: dict[str, Any], context: Context) -> Any:
    """All ways to match: captured values and covered nodes."""
    if isinstance(pattern, Any_):
        if pattern.name not in bound:
            yield {**bound, pattern.name: value}, []
        elif bound[pattern.name] is value:
            yield bound, []
    elif isinstance(pattern, Number):
        found = number(value, context)
        if found is None:
            return
        if isinstance(pattern.value, str):
            yield {**bound, pattern.value: found}, []
        elif math.isclose(found, pattern.value, rel_tol=1e-6):
            yield bound, []
    elif isinstance(pattern, Op):
        if not isinstance(value, fx.Node) or value.target not in pattern.targets or not plain(value):
            return
        if len(value.args) < len(pattern.args):
            return
        orders: list[Sequence[Any]] = [pattern.args]
        if value.target in _COMMUTATIVE and len(pattern.args) == 2:
            orders.append(pattern.args[::-1])
        for order in orders:
            yield from _sequence(order, value, 0, bound, [value], context)
    elif pattern == value:
        yield bound, []


def _sequence(
    patterns: Sequence[Any],
    node: fx.Node,
    index: int,
    bound: dict[str, Any],
    nodes: list[fx.Node],
    context: Context,
) -> Any:
    if index == len(patterns):
        yield bound, nodes
        return
    for values, covered in _alternatives(patterns[index], node.args[index], bound, context):
        yield from _sequence(patterns, node, index + 1, values, nodes + covered, context)


def plain(node: fx.Node) -> bool:
    """Whether a sum or difference does not scale its second term (``alpha``)."""
    return bool(node.kwargs.get("alpha", 1) == 1)
