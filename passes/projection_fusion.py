"""Join projections of the same input (query, key and value; gate and up) into one matrix product.

*Before* several linears of one input with constant weights. *After* one linear whose weight and bias are
concatenated (a constant, evaluated when the artifact is written; zeros where one has no bias), and a split.
*Does not fire when* a weight is not constant or has another user (joining would copy it), or element types
differ.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ..graph import new_call, node_type, torch_dtype
from ..ir.types import TensorType
from .base import Context, NodePass
from .shapes import hoist, is_constant_expression

aten = torch.ops.aten


class ProjectionFusion(NodePass):
    name = "projection_fusion"
    fusion = True
    roots = (aten.linear.default,)

    def match(self, node: fx.Node, context: Context) -> Any:
        x = node.args[0]
        assert isinstance(x, fx.Node)
        siblings = [u for u in x.users if u.target is aten.linear.default and u.args[0] is x]
        group = [u for u in siblings if node_type(u).dtype is node_type(node).dtype and _constant(u)]
        return sorted(group) if len(group) > 1 and min(group) is node else None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        kinds = [node_type(linear) for linear in match]
        sizes = [kind.shape[-1] for kind in kinds]
        total = TensorType(kinds[0].dtype, (*kinds[0].shape[:-1], sum(sizes)))
        inner = node_type(match[0].args[1]).shape[1]
        for linear in match[1:]:
            hoist(linear.args[1], node)
            hoist(_bias(linear), node)
        with graph.inserting_before(node):
            weight = new_call(
                graph, aten.cat.default, ([m.args[1] for m in match],), like=node,
                type=TensorType(total.dtype, (sum(sizes), inner)),
            )  # fmt: skip
            arguments = [match[0].args[0], weight]
            if any(_bias(m) is not None for m in match):
                bias = [_bias(m) or _zeros(graph, m, context) for m in match]
                flat = TensorType(total.dtype, (sum(sizes),))
                arguments.append(new_call(graph, aten.cat.default, (bias,), like=node, type=flat))
            joined = new_call(graph, aten.linear.default, tuple(arguments), like=node, type=total)
            split = new_call(
                graph, aten.split_with_sizes.default, (joined, sizes, -1), like=node, type=tuple(kinds)
            )
            for index, linear in enumerate(match):
                part = new_call(graph, operator.getitem, (split, index), like=linear)
                linear.replace_all_uses_with(part)
        for linear in match:
            graph.erase_node(linear)


def _bias(node: fx.Node) -> Any:
    return node.args[2] if len(node.args) > 2 else None


def _zeros(graph: fx.Graph, linear: fx.Node, context: Context) -> fx.Node:
    """The bias of a linear that has none."""
    kind = node_type(linear)
    node = graph.get_attr(
        context.add_constant(torch.zeros(kind.shape[-1:], dtype=torch_dtype(kind.dtype)), "zero")
    )
    node.meta = {"type": TensorType(kind.dtype, kind.shape[-1:]), "source": linear.meta.get("source")}
    return node


def _constant(node: fx.Node) -> bool:
    weight, bias = node.args[1], _bias(node)
    matrix = isinstance(weight, fx.Node) and node_type(weight).rank == 2 and len(weight.users) == 1
    return matrix and is_constant_expression(weight) and (bias is None or is_constant_expression(bias))
