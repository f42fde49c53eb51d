"""Take a part before computing, instead of a part of what was computed.

*Before* a slice of what another slice, a unary operator or a convolution gives, where nothing reads the rest,
or of tensors one after the other that is part of one of them; fewer rows, by number, of what a linear gives.
*After* one slice; the operator on a slice of its operand, the convolution on what the wanted outputs see of
its input, with padding only where they see that; a slice of the one tensor, or that itself; a linear of rows.
*Does not fire when* the slice has steps or is along the channels of a convolution, or the wanted outputs see
more padding at one end than at the other.

A layer that keeps the last inputs of a causal convolution computes the outputs of all of them and takes the
last: for a token 8 for 1. A file of ONNX may compute logits after every token of a prompt, of which
one is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..graph import new_call, node_type
from ..ir.types import TensorType
from .base import Context, NodePass, replace
from .shapes import CASTS, IDENTITY, JOINS, UNARY, Part, part_of

aten = torch.ops.aten
_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)


@dataclass(frozen=True)
class _Inside:
    """A part of one of several tensors that are one after the other."""

    tensor: fx.Node
    part: Part

    def taken(self, graph: fx.Graph, node: fx.Node) -> fx.Node:
        if node_type(self.tensor) == node_type(node):
            return self.tensor
        with graph.inserting_before(node):
            return new_call(graph, aten.slice.Tensor, (self.tensor, *self.part[:3]), like=node)


@dataclass(frozen=True)
class _Rows:
    """Rows of what a linear gives."""

    linear: fx.Node
    axis: int

    def taken(self, graph: fx.Graph, node: fx.Node) -> fx.Node:
        x, *rest = self.linear.args
        kind = node_type(x)
        shape = (*node_type(node).shape[:-1], kind.shape[-1])
        with graph.inserting_before(node):
            args = (x, self.axis, node.args[2])
            rows = new_call(graph, node.target, args, like=node, type=TensorType(kind.dtype, shape))
            return new_call(graph, self.linear.target, (rows, *rest), like=self.linear, type=node_type(node))


class SliceMotion(NodePass):
    name = "slice_motion"
    roots = (aten.slice.Tensor, aten.index_select.default)

    def match(self, node: fx.Node, context: Context) -> Any:
        """What to take of which operand, and the padding of a convolution, else None."""
        if node.target is aten.index_select.default:
            return _rows(node)
        source, part = node.args[0], part_of(node)
        if part is None or part.step != 1 or "type" not in source.meta:
            return None
        if source.target in JOINS:
            return _inside(source, part)
        if len(source.users) > 1:
            return None
        if source.target is aten.slice.Tensor:
            inner = part_of(source)
            if inner is None or inner.step != 1 or inner.axis != part.axis:
                return None
            return Part(part.axis, inner.start + part.start, inner.start + part.stop, 1), None
        if node_type(source).shape == node_type(node).shape:
            return None
        if source.target in (*IDENTITY, *CASTS, *UNARY) and isinstance(source.args[0], fx.Node):
            return part, None
        return _seen(source, part) if source.target in _CONVOLUTIONS else None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        if isinstance(match, _Inside | _Rows):
            replace(node, match.taken(graph, node))
            return
        part, padding = match
        source = node.args[0]
        whole = node_type(source.args[0])
        shape = (*whole.shape[: part.axis], part.stop - part.start, *whole.shape[part.axis + 1 :])
        with graph.inserting_before(node):
            args = (source.args[0], part.axis, part.start, part.stop)
            x = new_call(graph, aten.slice.Tensor, args, like=node, type=TensorType(whole.dtype, shape))
            new = x
            if source.target is not aten.slice.Tensor:
                rest = source.args[1:]
                if padding is not None:
                    _, weight, bias, stride, _, dilation, groups = _arguments(source)
                    rest = (weight, bias, stride, padding, dilation, groups)
                kwargs, kind = dict(source.kwargs), node_type(node)
                new = new_call(graph, source.target, (x, *rest), kwargs, like=source, type=kind)
        replace(node, new)
        graph.erase_node(source)
        if (further := self.match(x, context)) is not None:
            self.rewrite(graph, x, further, context)


def _rows(node: fx.Node) -> _Rows | None:
    """The linear that some rows are of, if they are fewer than all, and nothing reads the others."""
    linear, axis = node.args[0], int(node.args[1])
    if not isinstance(linear, fx.Node) or linear.target is not aten.linear.default or len(linear.users) > 1:
        return None
    kind = node_type(linear)
    axis %= kind.rank
    fewer = axis < kind.rank - 1 and node_type(node).shape[axis] < kind.shape[axis]
    return _Rows(linear, axis) if fewer and not linear.kwargs else None


def _inside(joined: fx.Node, part: Part) -> _Inside | None:
    """The one tensor that a part of several is of."""
    axis = int(joined.args[1] if len(joined.args) > 1 else joined.kwargs.get("dim", 0))
    if axis % node_type(joined).rank != part.axis:
        return None
    before = 0
    for tensor in joined.args[0]:
        kind = node_type(tensor)
        after = before + kind.shape[part.axis]
        if before <= part.start and part.stop <= after and kind.dtype is node_type(joined).dtype:
            return _Inside(tensor, Part(part.axis, part.start - before, part.stop - before, 1))
        before = after
    return None


def _arguments(convolution: fx.Node) -> tuple[Any, ...]:
    given = convolution.args
    return (*given, *(None, [1], [0], [1], 1)[len(given) - 2 :])


def _seen(convolution: fx.Node, part: Part) -> tuple[Part, list[int]] | None:
    """The input that a part of a convolution's outputs sees, and the padding around that."""
    if convolution.kwargs or part.start == part.stop:
        return None
    x, weight, _, *steps, _ = _arguments(convolution)
    rank = node_type(weight).rank - 2
    axis = part.axis - (node_type(convolution).rank - rank)
    if axis < 0:
        return None
    strides, paddings, dilations = (list(values) * (rank if len(values) == 1 else 1) for values in steps)
    size, kernel = node_type(x).shape[part.axis], node_type(weight).shape[axis + 2]
    first = part.start * strides[axis] - paddings[axis]
    stop = (part.stop - 1) * strides[axis] - paddings[axis] + (kernel - 1) * dilations[axis] + 1
    before, after = max(0, -first), max(0, stop - size)
    if before != after or first >= size or stop <= 0:
        return None
    paddings[axis] = before
    return Part(part.axis, max(0, first), min(size, stop), 1), paddings
