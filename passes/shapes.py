"""Shared knowledge about ATen operators that only re-arrange elements."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import fx

from ..graph import call_block, node_type, read_state
from .base import is_random

__all__ = [
    "CASTS",
    "IDENTITY",
    "JOINS",
    "PERMUTATIONS",
    "RESHAPES",
    "UNARY",
    "Part",
    "hoist",
    "is_constant_expression",
    "part_of",
    "permutation",
    "same_type",
]

aten = torch.ops.aten

RESHAPES = (
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.unsqueeze.default,
    aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.flatten.using_ints, aten.unflatten.int,
)  # fmt: skip
"""Operators that keep the elements in row-major order and change the shape only."""

IDENTITY = (
    aten.alias.default, aten.clone.default, aten.contiguous.default, aten.detach.default,
    aten.dropout.default,
    aten.feature_dropout.default, aten.lift_fresh_copy.default, aten.lift_fresh.default,
)  # fmt: skip
"""Operators that give their first argument's values (dropout: in evaluation)."""

CASTS = (aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten._to_copy.default)
"""Operators that change the element type to one that their own arguments name."""

UNARY = tuple(
    getattr(aten, name).default
    for name in (
        "abs", "clamp", "cos", "erf", "exp", "gelu", "log", "neg", "reciprocal", "relu", "rsqrt", "sigmoid",
        "silu", "sin", "softplus", "sqrt", "square", "tanh",
    )
)  # fmt: skip
"""Operators that compute each element from the one at the same place of their first argument."""

PERMUTATIONS = (
    aten.transpose.int, aten.swapaxes.default, aten.permute.default, aten.t.default, aten.mT.default,
    aten.numpy_T.default,
)  # fmt: skip


JOINS = (aten.cat.default, aten.concat.default)
"""Operators that put a list of tensors one after the other on an axis."""


class Part(NamedTuple):
    """Elements [start, stop) of an axis, every ``step``-th of them; all counted from 0."""

    axis: int
    start: int
    stop: int
    step: int


def part_of(node: fx.Node) -> Part | None:
    """What a slice takes of its operand, else None."""
    if node.target is not aten.slice.Tensor or not isinstance(node.args[0], fx.Node):
        return None
    args: list[Any] = [*node.args, *(0, 0, None, None, 1)[len(node.args) :]]
    source, axis, start, stop, step = args
    shape = node_type(source).shape
    axis %= len(shape)
    return Part(axis, *slice(start, stop, step).indices(shape[axis]))


def same_type(node: fx.Node, value: Any) -> bool:
    """Whether a node's result has element type and shape of another node's."""
    return isinstance(value, fx.Node) and node.meta.get("type") == value.meta.get("type")


def permutation(node: fx.Node) -> tuple[int, ...] | None:
    """The axis order of a transpose or permute, else None."""
    if node.target not in PERMUTATIONS or not (rank := node_type(node).rank):
        return None
    if node.target is aten.permute.default:
        return tuple(int(a) % rank for a in node.args[1])
    if node.target in (aten.transpose.int, aten.swapaxes.default):
        perm = list(range(rank))
        first, second = (int(a) % rank for a in node.args[1:3])
        perm[first], perm[second] = perm[second], perm[first]
        return tuple(perm)
    return (1, 0) if rank == 2 else None


def is_constant_expression(node: Any, limit: int = 32) -> bool:
    """Whether a node is computed from constants alone, by at most ``limit`` nodes."""
    waiting, seen = [node], 0
    while waiting:
        current = waiting.pop()
        if not isinstance(current, fx.Node) or current.op == "get_attr":
            continue
        seen += 1
        if current.op == "placeholder" or current.target in (read_state, call_block) or is_random(current):
            return False
        if seen > limit:
            return False
        waiting.extend(current.all_input_nodes)
    return True


def hoist(node: Any, before: fx.Node) -> None:
    """Move a constant expression in front of another node, where it is not there yet."""
    if isinstance(node, fx.Node) and node > before:
        for source in node.all_input_nodes:
            hoist(source, before)
        before.prepend(node)
