"""Multiply rows by the weights of their experts where these lie.

*Before* for every row the weight of its expert, gathered from those of all (index), times the row (bmm): from
the right, or from the left where weights are [in, out].
*After* ``expert_linear(x, weight, ids)`` on the weights of all experts, [out, in] one after the other.
*Does not fire when* the weights are not constant, several axes are indexed, or a gathered weight has another
user: it is in memory then anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..graph import new_call, node_type
from ..ir.types import TensorType
from .base import Context, NodePass, replace
from .fused import expert_linear, takes
from .shapes import RESHAPES, is_constant_expression

aten = torch.ops.aten


class ExpertFusion(NodePass):
    name = "expert_fusion"
    fusion = True
    roots = (aten.bmm.default, aten.matmul.default)

    def match(self, node: fx.Node, context: Context) -> Any:
        """x, the weights of all experts, ids, and whether weights are [in, out]."""
        for gathered, rows, turned in ((*node.args[:2], False), (*node.args[1::-1], True)):
            found = _gathered(gathered)
            x = _rows(rows, 1 if turned else 2)
            if found is None or x is None or node_type(node).rank != 3:
                continue
            weight, ids = found
            kind = node_type(weight)
            inner = 1 if turned else 2
            flat = TensorType(kind.dtype, (kind.shape[0] * kind.shape[3 - inner], kind.shape[inner]))
            result = TensorType(kind.dtype, (node_type(node).shape[0], kind.shape[3 - inner]))
            if takes(expert_linear, (x, flat, ids), {"experts": kind.shape[0]}, result):
                return x, weight, ids, flat, result, turned
        return None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        x, weight, ids, flat, result, turned = match
        kind = node_type(weight)
        with graph.inserting_before(node):
            if turned:
                out_in = TensorType(kind.dtype, (kind.shape[0], kind.shape[2], kind.shape[1]))
                weight = new_call(graph, aten.transpose.int, (weight, 1, 2), like=node, type=out_in)
            matrix = new_call(graph, aten.reshape.default, (weight, list(flat.shape)), like=node, type=flat)
            args = (x, matrix, ids, kind.shape[0])
            product = new_call(graph, expert_linear, args, like=node, type=result)
            shape = list(node_type(node).shape)
            replace(node, new_call(graph, aten.reshape.default, (product, shape), like=node))


def _gathered(node: Any) -> tuple[fx.Node, fx.Node] | None:
    """The constant weights of all experts, and the ids of those that are gathered."""
    if not isinstance(node, fx.Node) or node.target is not aten.index.Tensor or len(node.users) > 1:
        return None
    weight, indices = node.args[:2]
    if len(indices) != 1 or not isinstance(indices[0], fx.Node) or not is_constant_expression(weight):
        return None
    return (weight, indices[0]) if node_type(weight).rank == 3 else None


def _rows(node: Any, place: int) -> fx.Node | None:
    """x [rows, size] if the node is that with an axis of one element more, at this place."""
    if not isinstance(node, fx.Node) or node.target not in (aten.unsqueeze.default, *RESHAPES):
        return None
    x = node.args[0]
    if not isinstance(x, fx.Node) or node_type(x).rank != 2:
        return None
    shape = list(node_type(x).shape)
    shape.insert(place, 1)
    return x if list(node_type(node).shape) == shape else None
