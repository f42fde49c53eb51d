"""Join a sum with the normalisation that reads it.

*Before* layer_norm(a + b) or rms_norm(a + b), where the sum may have other users (the residual stream).
*After* ``add_layer_norm`` or ``add_rms_norm``, which give the sum and its norm.
*Does not fire when* the sum is a matrix product's epilogue by now, the terms differ in type, the norm is over
more than the last axis, or its weights depend on an input.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ..graph import new_call, node_type
from .base import Context, NodePass, replace
from .fused import add_layer_norm, add_rms_norm, rms_norm, takes
from .patterns import ADD, plain
from .shapes import hoist, is_constant_expression

aten = torch.ops.aten


class NormResidualFusion(NodePass):
    name = "norm_residual_fusion"
    fusion = True
    roots = (aten.layer_norm.default, rms_norm)

    def match(self, node: fx.Node, context: Context) -> Any:
        total = node.args[0]
        if not isinstance(total, fx.Node) or total.target not in ADD or not plain(total):
            return None
        a, b = total.args[:2]
        if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)):
            return None
        if not all(is_constant_expression(p) for p in node.args[1:] if isinstance(p, fx.Node)):
            return None
        target: Any = add_rms_norm
        operands: tuple[Any, ...]
        if node.target is aten.layer_norm.default:
            given = list(node.args[1:5])
            axes, weight, bias, eps = given + [None, None, 1e-5][len(given) - 1 :]
            if len(axes) != 1:
                return None
            target, operands = add_layer_norm, (a, b, weight, bias)
        else:
            weight, eps = node.args[1:3]
            operands = (a, b, weight)
        fits = takes(target, operands, {"eps": eps}, (node_type(total), node_type(node)))
        return (target, (*operands, eps), total) if fits else None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        target, args, total = match
        kinds = (total.meta["type"], node.meta["type"])
        for parameter in args[2:]:
            hoist(parameter, total)
        with graph.inserting_before(total):
            both = new_call(graph, target, args, like=node, type=kinds)
            new_sum = new_call(graph, operator.getitem, (both, 0), like=total)
            new_norm = new_call(graph, operator.getitem, (both, 1), like=node)
        replace(node, new_norm)
        replace(total, new_sum)
