"""Remove operators that change nothing, and move expands behind point-wise operators.

*Before* dropout in evaluation, alias, clone, contiguous, a cast to the type at hand, a reshape, expand or
slice to the same shape, a reshape of a reshape, an index that takes every element once and in order; an
expand in front of a point-wise operator; a choice of what was chosen by the same condition.
*After* their input, or one reshape; the operator on the small operand, with an expand behind it if the result
needs one; the choice of what the inner one takes there.
*Does not fire when* the element type changes, dropout is active, an index takes other elements, or dropping
the expand of a scalar would change how element types promote.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from ..graph import new_call, node_type
from ..ir.types import TensorType
from .base import Context, NodePass, is_random, replace
from .shapes import CASTS, IDENTITY, RESHAPES, UNARY, same_type

aten = torch.ops.aten
_CASTS_LIKE = (aten.to.other, aten.type_as.default)
_SHAPED = (*RESHAPES, aten.expand.default, aten.slice.Tensor, aten.repeat.default)
_POINTWISE = (
    aten.add.Tensor, aten.sub.Tensor, aten.rsub.Scalar, aten.mul.Tensor, aten.div.Tensor, *UNARY,
    aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.masked_fill.Scalar,
    *(getattr(aten, name).Tensor for name in ("eq", "ne", "le", "lt", "ge", "gt", "__and__", "__or__")),
    *(getattr(aten, name).Scalar for name in ("eq", "ne", "le", "lt", "ge", "gt")),
    aten.logical_and.default, aten.logical_or.default, aten.logical_not.default, aten.bitwise_and.Tensor,
    aten.bitwise_or.Tensor, aten.bitwise_not.default,
)  # fmt: skip


class NoOp(NodePass):
    name = "no_op"
    roots = (*IDENTITY, *CASTS, *_CASTS_LIKE, *_SHAPED, *_POINTWISE, aten.index.Tensor)

    def match(self, node: fx.Node, context: Context) -> Any:
        """The value that the node repeats, or for a point-wise operator its new operands and shape."""
        source = node.args[0]
        if node.target is aten.where.self and (args := _chosen_once(node)) != node.args:
            return args, node_type(node).shape
        if node.target in _POINTWISE:
            return _without_expands(node)
        if not isinstance(source, fx.Node):
            return None
        if node.target is aten.index.Tensor:
            return source if _takes_all(node, context) else None
        if node.target in IDENTITY:
            return None if is_random(node) else source
        if same_type(node, source):
            if node.target is aten.slice.Tensor and not _full_step(node):
                return None
            return source
        if node.target in RESHAPES and source.target in RESHAPES:
            return source.args[0]
        return _without_expands(node) if node.target in CASTS else None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        with graph.inserting_before(node):
            if isinstance(match, fx.Node):
                shape = list(node_type(node).shape)
                same = same_type(node, match)
                replace(
                    node, match if same else new_call(graph, aten.reshape.default, (match, shape), like=node)
                )
                return
            args, shape = match
            if shape == node_type(node).shape:
                node.args = args
                return
            small = TensorType(node_type(node).dtype, shape)
            new = new_call(graph, node.target, args, dict(node.kwargs), like=node, type=small)
            replace(node, new_call(graph, aten.expand.default, (new, list(node_type(node).shape)), like=node))


def _without_expands(node: fx.Node) -> tuple[tuple[Any, ...], tuple[int, ...]] | None:
    """Arguments with expanded operands replaced by what they expand, and the shape that the result then
    has."""
    kinds = {node_type(a).dtype for a in node.all_input_nodes}
    args, shapes, found = [], [], False
    for argument in node.args:
        if isinstance(argument, fx.Node) and argument.target is aten.expand.default:
            source = argument.args[0]
            if isinstance(source, fx.Node) and (node_type(source).rank or len(kinds) == 1):
                argument, found = source, True
        if isinstance(argument, fx.Node):
            shapes.append(node_type(argument).shape)
        args.append(argument)
    return (tuple(args), tuple(torch.broadcast_shapes(*shapes))) if found else None


def _chosen_once(node: fx.Node) -> tuple[Any, ...]:
    """The arguments of a choice; those chosen by the same condition are what is taken of them."""
    condition, *values = node.args
    for i, value in enumerate(values):
        if isinstance(value, fx.Node) and value.target is aten.where.self and value.args[0] is condition:
            taken = value.args[1 + i]
            values[i] = taken if same_type(value, taken) else value
    return (condition, *values)


def _takes_all(node: fx.Node, context: Context) -> bool:
    """Whether constant indices on all axes run through the elements in order."""
    shape, indices = node_type(node.args[0]).shape, node.args[1]
    if len(indices) != len(shape) or math.prod(shape) != math.prod(node_type(node).shape):
        return False
    position = torch.zeros((), dtype=torch.int64)
    for size, index in zip(shape, indices, strict=True):
        tensor = context.constant(index)
        if tensor is None or tensor.dtype not in (torch.int64, torch.int32):
            return False
        position = position * size + tensor
    return bool((position.flatten() == torch.arange(position.numel())).all())


def _full_step(node: fx.Node) -> bool:
    return bool(len(node.args) < 5 or node.args[4] == 1)
