"""Recognise rotary position embedding.

*Before* x * cos + rotate(x) * sin, where rotate joins minus the second half and the first half (slice or
chunk, neg, cat), or interleaves minus the odd and the even channels (strided slices, stack, flatten).
*After* ``rope(x, cos, sin)``.
*Does not fire when* the halves are unequal, rotate(x) has another user, cos and sin differ in type, or the
sum scales its second term.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ..graph import new_call, node_type
from .base import Context, NodePass, replace
from .fused import rope, takes
from .patterns import ADD, MUL, plain
from .shapes import RESHAPES, part_of

aten = torch.ops.aten
_SPLITS = (aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default)


class RotaryFusion(NodePass):
    name = "rotary_fusion"
    fusion = True
    roots = ADD

    def match(self, node: fx.Node, context: Context) -> Any:
        for straight, turned in (node.args[:2], node.args[1::-1]):
            found = self._pair(straight, turned)
            if found and plain(node) and takes(rope, found[:3], {"interleaved": found[3]}, node_type(node)):
                return found
        return None

    @staticmethod
    def _pair(straight: Any, turned: Any) -> Any:
        for product in (straight, turned):
            if not isinstance(product, fx.Node) or product.target not in MUL or len(product.users) > 1:
                return None
        for rotated, sin in (turned.args[:2], turned.args[1::-1]):
            found = _rotated(rotated)
            if found is None or len(rotated.users) > 1 or not isinstance(sin, fx.Node):
                continue
            x, interleaved = found
            cos = next((a for a in straight.args if a is not x), None)
            if (
                x in straight.args
                and isinstance(cos, fx.Node)
                and node_type(cos).shape[-1:] == node_type(x).shape[-1:]
            ):
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
    return axis % rank == rank - 1


def _halves(parts: Any) -> fx.Node | None:
    """x of [-second half, first half]."""
    second, first = _negated_pair(parts)
    if second is None or first is None or second[0] is not first[0]:
        return None
    size = node_type(second[0]).shape[-1]
    fits = second[1:] == (size // 2, size, 1) and first[1:] == (0, size // 2, 1) and size % 2 == 0
    return second[0] if fits else None


def _alternating(parts: Any) -> fx.Node | None:
    """x of [-odd channels, even channels]."""
    odd, even = _negated_pair(parts)
    if odd is None or even is None or odd[0] is not even[0]:
        return None
    size = node_type(odd[0]).shape[-1]
    fits = odd[1:] == (1, size, 2) and even[1:] == (0, size, 2) and size % 2 == 0
    return odd[0] if fits else None


_Part = tuple[fx.Node, int, int, int]
"""A tensor, and start, stop and step of a part of its last axis."""


def _negated_pair(parts: Any) -> tuple[_Part | None, _Part | None]:
    """[-a, b] as the parts that a and b are."""
    if len(parts) != 2 or parts[0].target is not aten.neg.default:
        return None, None
    return _part(parts[0].args[0]), _part(parts[1])


def _part(node: fx.Node) -> _Part | None:
    """What a slice, or one result of a split or chunk, takes of the last axis."""
    if node.target is operator.getitem:
        return _piece(node)
    part = part_of(node)
    if part is None or part.axis != node_type(node).rank - 1:
        return None
    return node.args[0], part.start, part.stop, part.step


def _piece(node: fx.Node) -> _Part | None:
    split, index = node.args
    if not isinstance(split, fx.Node) or split.target not in _SPLITS:
        return None
    kinds, source = split.meta["type"], split.args[0]
    if not _last(split, 2, kinds[0].rank):
        return None
    start = sum(kind.shape[-1] for kind in kinds[:index])
    return source, start, start + kinds[index].shape[-1], 1
