"""Bring matrix products with constant weights into one form: aten.linear on unflattened rows.

*Before* addmm, mm or matmul with a constant right side, transposed back; a constant per output that is added
to such a product; a reshape of the leading axes before and after a linear.
*After* ``linear(x, weight, bias)`` with weight [out, in].
*Does not fire when* the right side depends on an input, addmm scales its terms, or the reshape touches the
last axis, or what is added is no vector, or not constant, or the product has another user.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..graph import new_call, node_type
from ..ir.types import TensorType
from .base import Context, NodePass, replace
from .patterns import ADD, plain
from .shapes import RESHAPES, is_constant_expression

aten = torch.ops.aten


class LinearForm(NodePass):
    name = "linear_form"
    roots = (aten.addmm.default, aten.mm.default, aten.matmul.default, *ADD, *RESHAPES)

    def match(self, node: fx.Node, context: Context) -> Any:
        if node.target in RESHAPES:
            return self._between_reshapes(node)
        if node.target in ADD:
            return _with_bias(node)
        if node.target is aten.addmm.default:
            bias, x, weight = node.args[:3]
            fits = not node.kwargs and node_type(bias).rank == 1
            fits = fits and node_type(bias).shape[0] == node_type(weight).shape[1]
        else:
            bias, (x, weight) = None, node.args[:2]
            fits = node_type(weight).rank == 2 and node_type(x).rank >= 2
        return (x, weight, bias) if fits and is_constant_expression(weight) else None

    @staticmethod
    def _between_reshapes(node: fx.Node) -> Any:
        """reshape(linear(reshape(x))) whose result is linear(x)."""
        inner = node.args[0]
        if not isinstance(inner, fx.Node) or inner.target is not aten.linear.default or len(inner.users) > 1:
            return None
        flat = inner.args[0]
        if not isinstance(flat, fx.Node) or flat.target not in RESHAPES:
            return None
        x = flat.args[0]
        rows, size = node_type(x).shape[:-1], node_type(x).shape[-1]
        keeps_rows = node_type(node).shape == (*rows, node_type(inner).shape[-1])
        return (x, *inner.args[1:3]) if keeps_rows and size == node_type(flat).shape[-1] else None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        with graph.inserting_before(node):
            if node.target in RESHAPES or node.target in ADD:
                args = match
            else:
                x, weight, bias = match
                kind = node_type(weight)
                turned = new_call(
                    graph, aten.t.default, (weight,), like=node, type=TensorType(kind.dtype, kind.shape[::-1])
                )
                args = (x, turned) if bias is None else (x, turned, bias)
            replace(node, new_call(graph, aten.linear.default, tuple(args), like=node))


def _with_bias(node: fx.Node) -> Any:
    """Arguments of the linear that a sum of a linear and a bias is."""
    for product, bias in (node.args[:2], node.args[1::-1]):
        if not isinstance(product, fx.Node) or product.target is not aten.linear.default:
            continue
        fits = (
            len(product.users) == 1 and len([a for a in product.args if a is not None]) == 2 and plain(node)
        )
        if not fits or not isinstance(bias, fx.Node) or not is_constant_expression(bias):
            continue
        kind, own = node_type(bias), node_type(product)
        if kind.shape == own.shape[-1:] and kind.dtype is own.dtype and node_type(node) == own:
            return (*product.args[:2], bias)
    return None
