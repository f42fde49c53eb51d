"""Remove operators that change nothing.

*Before* dropout in evaluation, alias, clone, contiguous, a cast to the type at hand, a reshape, expand or slice to
the same shape, a reshape of a reshape, an expand in front of a broadcasting operator.
*After* their input, or one reshape.
*Does not fire when* the element type changes, or dropping an expand would change the result's shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..capture.graph import new_call, node_type
from .base import Context, NodePass, replace
from .shapes import IDENTITY, RESHAPES, same_type

aten = torch.ops.aten
_CASTS = (
    aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, aten._to_copy.default, aten.type_as.default,
)  # fmt: skip
_SHAPED = (*RESHAPES, aten.expand.default, aten.slice.Tensor, aten.repeat.default)
_BROADCASTING = (
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.where.self, aten.eq.Tensor,
    aten.le.Tensor, aten.lt.Tensor, aten.ge.Tensor, aten.gt.Tensor, aten.logical_and.default, aten.bitwise_and.Tensor,
    aten.__and__.Tensor,
)  # fmt: skip


class NoOp(NodePass):
    name = "no_op"
    roots = (*IDENTITY, *_CASTS, *_SHAPED, *_BROADCASTING)

    def match(self, node: fx.Node, context: Context) -> Any:
        source = node.args[0]
        if node.target in _BROADCASTING:
            return self._expands(node) or None
        if not isinstance(source, fx.Node):
            return None
        if node.target in IDENTITY or same_type(node, source):
            return source if node.target is not aten.slice.Tensor or _full_step(node) else None
        if node.target in RESHAPES and source.target in RESHAPES:
            return source.args[0]
        return None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        if node.target in _BROADCASTING:
            for expand in match:
                node.replace_input_with(expand, expand.args[0])
        elif same_type(node, match) or node.target in IDENTITY:
            replace(node, match)
        else:
            shape = list(node_type(node).shape)
            with graph.inserting_before(node):
                replace(node, new_call(graph, aten.reshape.default, (match, shape), like=node))

    @staticmethod
    def _expands(node: fx.Node) -> list[fx.Node]:
        """Expanded operands that may go without changing the result's shape."""
        operands = [a for a in node.args if isinstance(a, fx.Node)]
        shapes = {a: node_type(a).shape for a in operands}
        found = []
        for operand in dict.fromkeys(operands):
            if operand.target is not aten.expand.default:
                continue
            small = {**shapes, operand: node_type(operand.args[0]).shape}  # type: ignore[arg-type]
            if torch.broadcast_shapes(*(small[a] for a in operands)) == node_type(node).shape:
                shapes = small
                found.append(operand)
        return found


def _full_step(node: fx.Node) -> bool:
    return len(node.args) < 5 or node.args[4] == 1
