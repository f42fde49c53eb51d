"""Evaluate what depends on no input, and drop arithmetic identities.

*Before* chains over constants and generators (arange, masks by index arithmetic, rotary tables); x * 1, x /
1, x + 0, x - 0, x ** 1, x and true, x or false, where the neutral element may be a constant tensor.
*After* one constant per value that other nodes use; x, or an expand of x.
*Does not fire when* the value depends on an input or a state, is random, differs between instances of a
block, is over ``LIMIT`` bytes, reads a tensor of over ``LIMIT`` bytes or only re-arranges a weight matrix
(weights stay recipes, evaluated when the artifact is written), or an identity would change the element type.

An expanded or uniform value is kept small, with an expand behind it. Values come from torch itself, so
folding is exact.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ..capture.evaluate import apply
from ..graph import STRUCTURE, CapturedGraph, new_call, node_type
from ..ir.types import DType, TensorType
from .base import FOLDED, Context, GraphPass, is_random, replace
from .patterns import ADD, MUL, plain
from .shapes import CASTS, PERMUTATIONS, RESHAPES, same_type

LIMIT = 16 * 2**20

aten = torch.ops.aten
_AND = (aten.logical_and.default, aten.bitwise_and.Tensor, aten.__and__.Tensor)
_OR = (aten.logical_or.default, aten.bitwise_or.Tensor, aten.__or__.Tensor)
_NEUTRAL: dict[Any, int | bool] = {
    **dict.fromkeys(ADD, 0), aten.sub.Tensor: 0, aten.sub.Scalar: 0,
    **dict.fromkeys(MUL, 1), aten.div.Tensor: 1, aten.div.Scalar: 1, aten.pow.Tensor_Scalar: 1,
    **dict.fromkeys(_AND, True), **dict.fromkeys(_OR, False),
}  # fmt: skip
_COMMUTATIVE = {*ADD, *MUL, *_AND, *_OR}
_MOVES = (*PERMUTATIONS, *RESHAPES, *CASTS, aten.cat.default)


class ConstantFolding(GraphPass):
    name = "constant_folding"

    def run(self, captured: CapturedGraph) -> int:
        return sum(
            _fold(graph, context) + _drop_identities(graph, context) for context, graph in self.each(captured)
        )


def _drop_identities(graph: fx.Graph, context: Context) -> int:
    count = 0
    for node in list(graph.nodes):
        kept = _kept(node, context) if node.op == "call_function" and node.target in _NEUTRAL else None
        if kept is None:
            continue
        if not same_type(node, kept):
            with graph.inserting_before(node):
                kept = new_call(graph, aten.expand.default, (kept, list(node_type(node).shape)), like=node)
        replace(node, kept)
        count += 1
    return count


def _kept(node: fx.Node, context: Context) -> fx.Node | None:
    """The operand that an operation with a neutral element gives, if that has the result's element type."""
    neutral = _NEUTRAL[node.target]
    if isinstance(neutral, bool) and node_type(node).dtype is not DType.BOOL:
        return None
    sides = [node.args[:2]]
    if node.target in _COMMUTATIVE and plain(node):
        sides.append(node.args[1::-1])
    for kept, other in sides:
        fits = isinstance(kept, fx.Node) and node_type(kept).dtype is node_type(node).dtype
        if fits and _is_all(other, neutral, context):
            return kept
    return None


def _is_all(value: Any, neutral: float | bool, context: Context) -> bool:
    """Whether a number, or every element of a constant, is the neutral one."""
    if isinstance(value, int | float):
        return isinstance(value, bool) is isinstance(neutral, bool) and value == neutral
    while isinstance(value, fx.Node) and value.target is aten.expand.default:
        value = value.args[0]
    tensor = context.constant(value)
    if tensor is None or not tensor.numel() or (tensor.dtype is torch.bool) is not isinstance(neutral, bool):
        return False
    return bool(tensor[(0,) * tensor.ndim] == neutral) and bool((tensor == neutral).all())


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
        if any(user not in values for user in node.users):
            count += _materialise(graph, node, value, context)
    return count


def _value(node: fx.Node, values: dict[fx.Node, Any], context: Context) -> Any:
    """The value of a foldable node, else None."""
    if node.op == "get_attr":
        tensor = context.constant(node)
        return tensor if tensor is not None and tensor.numel() * tensor.element_size() <= LIMIT else None
    if node.op != "call_function" or (node.target in STRUCTURE and node.target is not operator.getitem):
        return None
    if any(n not in values for n in node.all_input_nodes) or is_random(node):
        return None
    if node.target in _MOVES and any(_is_weight(n, context) for n in node.all_input_nodes):
        return None
    if not node.all_input_nodes and not isinstance(node.target, torch._ops.OpOverload):
        return None
    result = node.meta.get("type")
    if result is not None and not isinstance(result, tuple) and result.nbytes > LIMIT and not _is_view(node):
        return None
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
    with torch.no_grad():
        return apply(node.target, args, kwargs)


def _is_weight(node: fx.Node, context: Context) -> bool:
    """Whether a node is a floating-point matrix of the model itself."""
    tensor = context.constant(node)
    own = tensor is not None and not str(node.target).startswith(FOLDED)
    return own and tensor.is_floating_point() and tensor.ndim > 1  # type: ignore[union-attr]


def _is_view(node: fx.Node) -> bool:
    return node.target is aten.expand.default


def _compact(value: torch.Tensor) -> torch.Tensor:
    """The tensor with its repeated axes (stride 0, or all of them if it is uniform) reduced to size 1."""
    for axis, (size, stride) in enumerate(zip(value.shape, value.stride(), strict=True)):
        if stride == 0 and size > 1:
            value = value.narrow(axis, 0, 1)
    if value.numel() > 1 and bool(value[(0,) * value.ndim] == value[(-1,) * value.ndim]):
        first = value[(slice(0, 1),) * value.ndim]
        return first if bool((value == first).all()) else value
    return value


def _materialise(graph: fx.Graph, node: fx.Node, value: torch.Tensor, context: Context) -> int:
    """Put a constant in a node's place; 0 if it is too large, or is that already (the expand of a
    constant)."""
    small = _compact(value)
    expanded = small.shape != value.shape
    if small.numel() * small.element_size() > LIMIT or (expanded and _expands_constant(node)):
        return 0
    name = context.add_constant(small.clone(memory_format=torch.contiguous_format), "constant")
    with graph.inserting_before(node):
        new = graph.get_attr(name)
        kind = node_type(node)
        new.meta = {"type": TensorType(kind.dtype, tuple(small.shape)), "source": node.meta.get("source")}
        if expanded:
            new = new_call(graph, aten.expand.default, (new, list(kind.shape)), like=node)
    replace(node, new)
    return 1


def _expands_constant(node: fx.Node) -> bool:
    return node.target is aten.expand.default and node.args[0].op == "get_attr"
