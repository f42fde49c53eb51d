"""Give a linear what follows it: its activation, or the residual sum.

*Before* act(linear(x)) with act gelu, tanh-gelu, relu, silu, sigmoid or tanh; linear(x) + residual.
*After* ``linear(x, weight, bias, residual, act)``.
*Does not fire when* the linear has another user, already has an epilogue, or the residual has another type.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..graph import new_call, node_type
from .base import Context, NodePass, replace
from .fused import linear, takes
from .gated_unit_fusion import ACTS, activation
from .patterns import ADD, plain
from .shapes import same_type

aten = torch.ops.aten
_SIMPLE = {aten.relu.default: "relu", aten.tanh.default: "tanh"}


class OperatorFusion(NodePass):
    name = "operator_fusion"
    fusion = True
    roots = (*ACTS, *_SIMPLE, *ADD)

    def match(self, node: fx.Node, context: Context) -> Any:
        if node.target not in ADD:
            product = _plain_linear(node.args[0])
            return None if product is None else (product, None, _SIMPLE.get(node.target) or activation(node))
        sides = [(_plain_linear(a), b) for a, b in (node.args[:2], node.args[1::-1])]
        found = [(a, b) for a, b in sides if a is not None and isinstance(b, fx.Node) and a is not b]
        found = [(a, b) for a, b in found if same_type(a, b) and plain(node)]
        if not found:
            return None
        last, residual = max(found, key=lambda pair: pair[0])
        return last, residual, ""

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        product, residual, act = match
        bias = product.args[2] if len(product.args) > 2 else None
        with graph.inserting_before(node):
            args = (product.args[0], product.args[1], bias, residual, act)
            replace(node, new_call(graph, linear, args, like=node))


def _plain_linear(node: Any) -> fx.Node | None:
    if not isinstance(node, fx.Node) or node.target is not aten.linear.default or len(node.users) > 1:
        return None
    operands = (*node.args, None, None)[:4]
    return node if takes(linear, operands, {}, node_type(node)) else None
