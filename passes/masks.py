"""What is added to attention scores, and how much of it is known when compiling.

A mask that lets every row see all columns, those up to its own, or a window of these, becomes attributes of
the fused attention. That is exact for masks of minus infinity. A finite one (-1e4, or the smallest float)
only excludes beside columns that are allowed, so it must leave some in every row, whatever else is added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from ..graph import new_call, node_type, torch_dtype
from ..ir.types import DType, TensorType
from .base import Context

__all__ = ["Term", "build", "reduce_terms", "types", "unexpanded"]

aten = torch.ops.aten
_EXCLUDES = -1e4
"""A float mask at or below this excludes: exp of it underflows to zero beside any ordinary score."""
_ABSORBS = -1e30
"""A number at or below this absorbs the score that it is added to, so adding it is filling it in."""
_ORDINARY = 1e3
"""The size up to which a constant bias leaves excluded columns excluded."""


@dataclass(frozen=True)
class Term:
    """A node that is added to the scores; a boolean one stands for 0 where true and minus infinity elsewhere.

    With ``fill``, the scores so far become ``fill`` where the boolean node equals ``at``.
    """

    node: fx.Node
    fill: float | None = None
    at: bool = False

    def legal(self, dtype: DType) -> bool:
        """Whether the term can be added to scores of an element type without another result."""
        kind = node_type(self.node).dtype
        if self.fill is None:
            return kind in (DType.BOOL, dtype)
        absorbed = self.fill == -math.inf or (self.fill <= _ABSORBS and dtype is not DType.F16)
        return kind is DType.BOOL and absorbed

    def deepened(self) -> Term:
        """The term with a fill that absorbs, which is the same as one that excludes if nothing else
        excludes."""
        if self.fill is None or not _ABSORBS < self.fill <= _EXCLUDES:
            return self
        return Term(self.node, _ABSORBS, self.at)


@dataclass(frozen=True)
class Shape:
    """A mask as attributes; ``exact`` if what it excludes is at minus infinity."""

    causal: bool
    window: int
    exact: bool


def reduce_terms(
    terms: Sequence[Term], rows: int, length: int, context: Context
) -> tuple[list[Term], bool, int]:
    """The terms that have to stay, and ``causal`` and ``window`` for the others."""
    shapes = [_remembered_shape(term, rows, length, context) for term in terms]
    harmless = [shape is not None and not shape.causal for shape in shapes]
    harmless = [known or _ordinary(term, context) for known, term in zip(harmless, terms, strict=True)]
    rest, causal, windows = [], False, []
    for index, (term, shape) in enumerate(zip(terms, shapes, strict=True)):
        alone = all(harmless[:index] + harmless[index + 1 :])
        if shape is None or not (shape.exact or alone):
            kept = Term(unexpanded(term.node), term.fill, term.at)
            rest.append(kept.deepened() if alone else kept)
            continue
        causal |= shape.causal
        windows += [shape.window] if shape.window else []
    return rest, causal, min(windows, default=0)


def _remembered_shape(term: Term, rows: int, length: int, context: Context) -> Shape | None:
    """:func:`known_shape`, once for all layers that share a mask."""
    key = (term, rows, length)
    if key not in context.memo:
        context.memo[key] = known_shape(*key, context)
    return context.memo[key]


def known_shape(term: Term, rows: int, length: int, context: Context) -> Shape | None:
    """The attributes that can stand for a term in scores of ``rows`` by ``length``; none of them if it adds
    0."""
    found = _allowed(term, context)
    if found is None:
        return None
    allowed, exact = found
    allowed = allowed.reshape(-1, *allowed.shape[-2:]) if allowed.ndim >= 2 else allowed.reshape(1, 1, -1)
    if not bool((allowed == allowed[:1]).all()):
        return None
    allowed = allowed[0].expand(rows, length)
    if bool(allowed.all()):
        return Shape(False, 0, True)
    operator_mask = term.fill is None and node_type(term.node).dtype is DType.BOOL
    if not operator_mask and not bool(allowed.any(-1).all()):
        return None
    distance = torch.arange(rows)[:, None] + (length - rows) - torch.arange(length)[None, :]
    causal = distance >= 0
    if bool((allowed == causal).all()):
        return Shape(True, 0, exact)
    reach = int(distance[allowed].max()) + 1 if bool(allowed.any()) else 0
    windowed = reach > 0 and bool((allowed == (causal & (distance < reach))).all())
    return Shape(True, reach, exact) if windowed else None


def types(terms: Sequence[Term], dtype: DType) -> TensorType | None:
    """The type of the mask that :func:`build` makes."""
    if not terms:
        return None
    shape = _broadcast(*(term.node for term in terms))
    return TensorType(DType.BOOL if _is_operator_mask(terms) else dtype, shape)


def build(
    graph: fx.Graph, terms: Sequence[Term], dtype: DType, context: Context, like: fx.Node
) -> fx.Node | None:
    """The mask operand that stands for the terms, outermost first, made at the graph's insertion point.

    A fill covers what was added inside of it, so the mask is filled there too: a sum of two smallest floats
    would be minus infinity.
    """
    if not terms or _is_operator_mask(terms):
        return terms[0].node if terms else None
    total: fx.Node | None = None
    for term in reversed(terms):
        if term.fill is not None:
            total = _filled(graph, term, total or _zero(graph, dtype, context, like), like)
        elif total is None:
            total = term.node
        else:
            kind = TensorType(dtype, _broadcast(total, term.node))
            total = new_call(graph, aten.add.Tensor, (total, term.node), like=like, type=kind)
    return total


def _filled(graph: fx.Graph, term: Term, inner: fx.Node, like: fx.Node) -> fx.Node:
    kind = TensorType(node_type(inner).dtype, _broadcast(term.node, inner))
    if term.at:
        return new_call(graph, aten.where.ScalarSelf, (term.node, term.fill, inner), like=like, type=kind)
    return new_call(graph, aten.where.ScalarOther, (term.node, inner, term.fill), like=like, type=kind)


def _zero(graph: fx.Graph, dtype: DType, context: Context, like: fx.Node) -> fx.Node:
    node = graph.get_attr(context.add_constant(torch.zeros((), dtype=torch_dtype(dtype)), "zero"))
    node.meta = {"type": TensorType(dtype, ()), "source": like.meta.get("source")}
    return node


def _broadcast(*nodes: fx.Node) -> tuple[int, ...]:
    return tuple(torch.broadcast_shapes(*(node_type(node).shape for node in nodes)))


def unexpanded(node: fx.Node) -> fx.Node:
    """What an expanded mask repeats; attention broadcasts it itself."""
    while node.target is aten.expand.default:
        node = node.args[0]
    return node


def _is_operator_mask(terms: Sequence[Term]) -> bool:
    """Whether there is nothing but one boolean mask, as the operator takes it."""
    return len(terms) == 1 and terms[0].fill is None and node_type(terms[0].node).dtype is DType.BOOL


def _allowed(term: Term, context: Context) -> tuple[torch.Tensor, bool] | None:
    """Where a term adds 0 and whether it adds minus infinity elsewhere; None if it is unknown or adds other
    values."""
    tensor = context.value(unexpanded(term.node))
    if tensor is None:
        return None
    if tensor.dtype == torch.bool:
        if term.fill is None:
            return tensor, True
        return (tensor != term.at, term.fill == -math.inf) if term.fill <= _EXCLUDES else None
    allowed = tensor == 0
    if not tensor.dtype.is_floating_point or not bool((allowed | (tensor <= _EXCLUDES)).all()):
        return None
    return allowed, bool((allowed | (tensor == -math.inf)).all())


def _ordinary(term: Term, context: Context) -> bool:
    """Whether a term is a constant bias of ordinary size."""
    tensor = context.value(unexpanded(term.node))
    return tensor is not None and tensor.dtype.is_floating_point and bool((tensor.abs() <= _ORDINARY).all())
