"""Transpose trailing axes after leading ones were split, instead of before.

*Before* reshape(transpose(reshape(x))) whose transposition keeps the leading axes where they are, and whose
outer reshape only splits or merges these.
*After* transpose(reshape(x)), as models are written that keep batch and heads apart: exporters join them for
products of matrices.
*Does not fire when* the outer reshape touches an axis that moves, or nothing was reshaped before.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from ..graph import new_call, node_type
from ..ir.types import TensorType
from .base import Context, NodePass, replace
from .shapes import RESHAPES, permutation

aten = torch.ops.aten


class LeadingAxes(NodePass):
    name = "leading_axes"
    roots = RESHAPES

    def match(self, node: fx.Node, context: Context) -> Any:
        """What is reshaped first, to which shape, and the two axes that are exchanged then."""
        turned = node.args[0]
        order = permutation(turned) if isinstance(turned, fx.Node) and len(turned.users) == 1 else None
        if order is None or turned.args[0].target not in RESHAPES:
            return None
        rank = len(order)
        if order != (*range(rank - 2), rank - 1, rank - 2):
            return None
        inner, shape = node_type(turned).shape, node_type(node).shape
        if shape[-2:] != inner[-2:] or math.prod(shape[:-2]) != math.prod(inner[:-2]) or len(shape) < 3:
            return None
        return turned.args[0].args[0], (*shape[:-2], inner[-1], inner[-2])

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        source, shape = match
        with graph.inserting_before(node):
            kind = TensorType(node_type(node).dtype, shape)
            apart = new_call(graph, aten.reshape.default, (source, list(shape)), like=node, type=kind)
            rank = len(shape)
            replace(node, new_call(graph, aten.transpose.int, (apart, rank - 2, rank - 1), like=node))
