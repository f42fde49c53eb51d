"""Evaluate what depends on no input, and drop arithmetic identities.

*Before* chains over constants and generators (arange, masks by index arithmetic, rotary tables); x * 1, x / 1,
x + 0, x - 0, x ** 1.
*After* one constant per value that other nodes use; x.
*Does not fire when* the value depends on an input or a state or differs between instances of a block, is over
``LIMIT`` bytes, reads a tensor of over ``LIMIT`` bytes (weights stay recipes, evaluated when the artifact is
written), or an identity would change type or shape.

An expanded value is kept unexpanded, with an expand behind it. Values come from torch itself, so folding is exact.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ..capture.evaluate import apply
from ..capture.graph import STRUCTURE, CapturedGraph, new_call, node_type
from .base import Context, GraphPass, replace
from .patterns import ADD, MUL, number
from .shapes import same_type

LIMIT = 16 * 2**20

aten = torch.ops.aten
_NEUTRAL = {
    **dict.fromkeys(ADD, 0.0), aten.sub.Tensor: 0.0, aten.sub.Scalar: 0.0,
    **dict.fromkeys(MUL, 1.0), aten.div.Tensor: 1.0, aten.div.Scalar: 1.0, aten.pow.Tensor_Scalar: 1.0,
}  # fmt: skip


class ConstantFolding(GraphPass):
    name = "constant_folding"

    def run(self, captured: CapturedGraph) -> int:
        return sum(
            _drop_identities(graph, context) + _fold(graph, context) for context, graph in self.each(captured)
        )


def _drop_identities(graph: fx.Graph, context: Context) -> int:
    count = 0
    for node in list(graph.nodes):
        neutral = _NEUTRAL.get(node.target) if node.op == "call_function" else None
        if neutral is None or len(node.args) < 2:
            continue
        sides = [(node.args[0], node.args[1])]
        if node.target in (*ADD, *MUL):
            sides.append((node.args[1], node.args[0]))
        for kept, other in sides:
            if same_type(node, kept) and number(other, context) == neutral:
                replace(node, kept)  # type: ignore[arg-type]
                count += 1
                break
    return count


def _fold(graph: fx.Graph, context: Context) -> int:
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        value = _value(node, values, context)
        if value is not None:
            values[node] = value
    count = 0
    for node in list(graph.nodes):
        value = values.get(node)
        if node.op != "call_function" or not isinstance(value, torch.Tensor):
            continue
        if any(user not in values for user in node.users) and _small(value):
            count += _materialise(graph, node, value, context)
    return count


def _value(node: fx.Node, values: dict[fx.Node, Any], context: Context) -> Any:
    """The value of a foldable node, else None."""
    if node.op == "get_attr":
        tensor = context.constant(node)
        return tensor if tensor is not None and tensor.numel() * tensor.element_size() <= LIMIT else None
    if node.op != "call_function" or (node.target in STRUCTURE and node.target is not operator.getitem):
        return None
    if any(n not in values for n in node.all_input_nodes):
        return None
    if not node.all_input_nodes and not isinstance(node.target, torch._ops.OpOverload):
        return None
    result = node.meta.get("type")
    if result is not None and not isinstance(result, tuple) and result.nbytes > LIMIT and not _is_view(node):
        return None
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
    with torch.no_grad():
        return apply(node.target, args, kwargs)


def _is_view(node: fx.Node) -> bool:
    return node.target is aten.expand.default


def _small(value: torch.Tensor) -> bool:
    return _compact(value).numel() * value.element_size() <= LIMIT


def _compact(value: torch.Tensor) -> torch.Tensor:
    """The tensor with its repeated (stride 0) axes reduced to size 1."""
    for axis, (size, stride) in enumerate(zip(value.shape, value.stride(), strict=True)):
        if stride == 0 and size > 1:
            value = value.narrow(axis, 0, 1)
    return value


def _materialise(graph: fx.Graph, node: fx.Node, value: torch.Tensor, context: Context) -> int:
    """Put a constant in a node's place; 0 if the node is that already (the expand of a constant)."""
    small = _compact(value)
    expanded = small.shape != value.shape
    if expanded and node.target is aten.expand.default and node.args[0].op == "get_attr":  # type: ignore[union-attr]
        return 0
    name = context.add_constant(small.detach().clone(memory_format=torch.contiguous_format), "constant")
    with graph.inserting_before(node):
        new = graph.get_attr(name)
        kind = node_type(node)
        new.meta = {"type": type(kind)(kind.dtype, tuple(small.shape)), "source": node.meta.get("source")}
        if expanded:
            new = new_call(graph, aten.expand.default, (new, list(kind.shape)), like=node)
    replace(node, new)
    return 1
