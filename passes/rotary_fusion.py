"""Recognise rotary position embedding.

*Before* x * cos + rotate(x) * sin, where rotate joins minus the second half and the first half (slice, neg, cat), or
interleaves minus the odd and the even channels (strided slices, stack, flatten).
*After* ``rope(x, cos, sin)``.
*Does not fire when* the halves are unequal, rotate(x) has another user, or cos and sin differ in type.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..capture.graph import new_call, node_type
from .base import Context, NodePass, replace
from .fused import rope
from .patterns import ADD, MUL
from .shapes import RESHAPES, same_type

aten = torch.ops.aten


class RotaryFusion(NodePass):
    name = "rotary_fusion"
    fusion = True
    roots = ADD

    def match(self, node: fx.Node, context: Context) -> Any:
        plain, turned = node.args[:2]
        for first, second in ((plain, turned), (turned, plain)):
            found = self._pair(first, second)
            if found and same_type(node, found[0]):
                return found
        return None

    def _pair(self, plain: Any, turned: Any) -> Any:
        for product in (plain, turned):
            if not isinstance(product, fx.Node) or product.target not in MUL or len(product.users) > 1:
                return None
        for rotated, sin in (turned.args[:2], turned.args[1::-1]):
            found = _rotated(rotated)
            if found is None:
                continue
            x, interleaved = found
            cos = next((a for a in plain.args if a is not x), None)
            if x in plain.args and isinstance(cos, fx.Node) and isinstance(sin, fx.Node) and same_type(cos, sin):
                fits = node_type(cos).shape[-1:] == node_type(x).shape[-1:] and len(rotated.users) == 1
                if fits:
                    return x, cos, sin, interleaved
        return None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        with graph.inserting_before(node):
            replace(node, new_call(graph, rope, match, like=node))


def _rotated(node: Any) -> tuple[fx.Node, bool] | None:
    """x and whether channels are interleaved, if the node is rotate(x)."""
    if not isinstance(node, fx.Node):
        return None
    if node.target is aten.cat.default and _last(node, 1, node_type(node).rank):
        found = _halves(node.args[0])
        return (found, False) if found is not None else None
    stacked = node.args[0] if node.target in RESHAPES else None
    if isinstance(stacked, fx.Node) and stacked.target is aten.stack.default:
        if not _last(stacked, 1, node_type(stacked).rank):
            return None
        found = _alternating(stacked.args[0])
        return (found, True) if found is not None else None
    return None


def _last(node: fx.Node, position: int, rank: int) -> bool:
    axis = node.args[position] if len(node.args) > position else node.kwargs.get("dim", 0)
    return axis % rank == rank - 1  # type: ignore[operator]


def _halves(parts: Any) -> fx.Node | None:
    negated, first = _negated_pair(parts)
    if negated is None or first is None:
        return None
    size = node_type(negated.args[0]).shape[-1]
    fits = _slice(negated) == (size // 2, size, 1) and _slice(first) == (0, size // 2, 1) and size % 2 == 0
    return negated.args[0] if fits and negated.args[0] is first.args[0] else None


def _alternating(parts: Any) -> fx.Node | None:
    odd, even = _negated_pair(parts)
    if odd is None or even is None:
        return None
    size = node_type(odd.args[0]).shape[-1]
    fits = _slice(odd) == (1, size, 2) and _slice(even) == (0, size, 2) and size % 2 == 0
    return odd.args[0] if fits and odd.args[0] is even.args[0] else None


def _negated_pair(parts: Any) -> tuple[Any, Any]:
    """[neg(slice a), slice b] as (slice a, slice b)."""
    if len(parts) == 2 and parts[0].target is aten.neg.default:
        inner, other = parts[0].args[0], parts[1]
        if inner.target is aten.slice.Tensor and other.target is aten.slice.Tensor:
            return inner, other
    return None, None


def _slice(node: fx.Node) -> tuple[int, int, int] | None:
    """Start, stop and step of a slice of the last axis."""
    rank = node_type(node).rank
    args = (*node.args, *(0, 0, None, None, 1)[len(node.args) :])
    if args[1] % rank != rank - 1:  # type: ignore[operator]
        return None
    size = node_type(node.args[0]).shape[-1]  # type: ignore[arg-type]
    start, stop, step = slice(args[2], args[3], args[4]).indices(size)
    return start, stop, step
