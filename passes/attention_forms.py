"""The forms in which attention is written: as the operator, and as products around a softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ..graph import node_type
from ..ir.types import TensorType
from .base import Context, is_random
from .masks import Term
from .patterns import ADD, MUL, number, plain
from .shapes import CASTS, permutation, same_type

__all__ = ["Attention", "from_operator", "from_pieces", "scaled"]

aten = torch.ops.aten
_SOFTMAX = (aten.softmax.int, aten._softmax.default)
_DIV = (aten.div.Tensor, aten.div.Scalar)
_FILLS = (aten.masked_fill.Scalar, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.self)
_BETWEEN = (*ADD, *MUL, *_DIV, *_FILLS, aten.tanh.default)
"""What may stand between the product of queries and keys and the softmax."""


@dataclass
class Attention:
    """softmax(softcap(scale * q k^T) + terms) v.

    ``k`` is k^T if ``turned``. ``scalings`` are the nodes that scale the queries, each with what it scales.
    """

    q: fx.Node
    k: fx.Node
    v: fx.Node
    terms: list[Term]
    scale: float
    causal: bool = False
    window: int = 0
    softcap: float = 0.0
    turned: bool = False
    scalings: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)

    def key_type(self) -> TensorType:
        kind = node_type(self.k)
        return TensorType(kind.dtype, (*kind.shape[:2], *kind.shape[:1:-1])) if self.turned else kind

    def attributes(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("scale", "causal", "window", "softcap")}


def from_operator(node: fx.Node) -> Attention | None:
    """aten.scaled_dot_product_attention of rank four."""
    names = ("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    given = {**dict(zip(names, node.args[3:], strict=False)), **node.kwargs}
    q, k, v = node.args[:3]
    if any(node_type(x).rank != 4 for x in (q, k, v)) or is_random(node):
        return None
    causal = bool(given.get("is_causal", False))
    if causal and node_type(q).shape[2] != node_type(k).shape[2]:
        return None  # torch aligns this mask to the first column, the fused op to the last
    scale, mask = given.get("scale"), given.get("attn_mask")
    if scale is None:
        scale = 1 / math.sqrt(max(node_type(q).shape[-1], 1))
    terms = [] if mask is None else [Term(mask)]
    return Attention(q, k, v, terms, float(scale), causal)


def from_pieces(node: fx.Node, context: Context) -> Attention | None:
    """matmul(softmax(masks + softcap(scale * matmul(q, k^T))), v) of rank four; q and k perhaps scaled too,
    and NaN of the softmax perhaps made zeros."""
    weights, v = node.args[:2]
    scores = _softmax_input(weights, context)
    if scores is None or not isinstance(v, fx.Node) or node_type(v).rank != 4 or node_type(scores).rank != 4:
        return None
    inner, terms = _added(scores, context)
    softcap = 0.0
    capped = scaled(inner, context)
    if capped is not None and (bend := _only_use(capped[0], aten.tanh.default)) is not None:
        bent = scaled(bend.args[0], context)
        if bent is not None and capped[1] > 0 and math.isclose(bent[1] * capped[1], 1.0, rel_tol=1e-6):
            softcap, inner = capped[1], bent[0]
    scale = 1.0
    while (step := scaled(inner, context)) is not None:
        inner, scale = step[0], scale * step[1]
    product = _only_use(inner, aten.matmul.default)
    if product is None or any(node_type(x).rank != 4 for x in product.all_input_nodes):
        return None
    (q, by_q), (k, by_k) = _without_scale(product.args[0], context), _without_scale(product.args[1], context)
    scale *= by_q * by_k
    turned = permutation(k) != (0, 1, 3, 2)
    k = k if turned else k.args[0]
    return Attention(q, k, v, terms, scale, softcap=softcap, turned=turned)


def _without_scale(node: Any, context: Context) -> tuple[Any, float]:
    """An operand of the scores before numbers that it alone is multiplied by, and their product."""
    factor = 1.0
    while (step := scaled(node, context)) is not None:
        node, factor = step[0], factor * step[1]
    return node, factor


def scaled(node: Any, context: Context) -> tuple[fx.Node, float] | None:
    """The other operand and the factor of a multiplication or division by a number that has one user."""
    if _only_use(node, *MUL, *_DIV) is None:
        return None
    a, b = node.args[:2]
    if (factor := number(b, context)) and same_type(node, a):
        return a, factor if node.target in MUL else 1 / factor
    if node.target in MUL and (factor := number(a, context)) and same_type(node, b):
        return b, factor
    return None


def _only_use(node: Any, *targets: Any) -> fx.Node | None:
    fits = isinstance(node, fx.Node) and node.target in targets and len(node.users) == 1
    return node if fits else None


def _unguarded(weights: Any, context: Context) -> fx.Node | None:
    """The softmax of where(isnan(softmax), 0, softmax): rows of which everything is excluded, as zeros."""
    guard = _only_use(weights, *_FILLS)
    if guard is None:
        return None
    if guard.target is aten.masked_fill.Scalar:
        softmax, test, fill = guard.args
    else:
        test, fill, softmax = guard.args
    fits = isinstance(softmax, fx.Node) and softmax.target in _SOFTMAX and number(fill, context) == 0
    test = _only_use(test, aten.isnan.default) if fits else None
    return (
        softmax
        if test is not None and test.args[0] is softmax and set(softmax.users) == {test, guard}
        else None
    )


def _softmax_input(weights: Any, context: Context) -> fx.Node | None:
    """What a softmax over the last of four axes reads, perhaps through a wider element type and back."""
    softmax = _unguarded(weights, context) or _only_use(_uncast(weights), *_SOFTMAX)
    if softmax is None or int(softmax.args[1]) % 4 != 3:
        return None
    scores, wide = _uncast(softmax.args[0]), node_type(softmax).dtype
    return (
        scores if same_type(weights, scores) and wide.itemsize >= node_type(weights).dtype.itemsize else None
    )


def _uncast(node: Any) -> Any:
    """What a cast reads, or the node itself."""
    cast = _only_use(node, *CASTS, aten.type_as.default, aten.to.other)
    return node if cast is None else cast.args[0]


def _added(scores: fx.Node, context: Context) -> tuple[fx.Node, list[Term]]:
    """Scores before masks and biases were added or filled in, and these."""
    terms = []
    while (node := _only_use(scores, *ADD, *_FILLS)) is not None and plain(node):
        found = _sum_terms(node) if node.target in ADD else _fill_terms(node, context)
        found = [(inner, term) for inner, term in found if _holds_product(inner)]
        if not found:
            break
        scores, term = found[0]
        terms.append(term)
    return scores, terms


def _sum_terms(node: fx.Node) -> list[tuple[Any, Term]]:
    return [(a, Term(b)) for a, b in (node.args[:2], node.args[1::-1]) if isinstance(b, fx.Node)]


def _fill_terms(node: fx.Node, context: Context) -> list[tuple[Any, Term]]:
    """What a fill keeps, and the fill as a term."""
    if node.target is aten.masked_fill.Scalar:
        inner, condition, fill = node.args
        return [(inner, Term(condition, float(fill), True))]
    condition, yes, no = node.args
    sides = [(yes, number(no, context), False), (no, number(yes, context), True)]
    return [(inner, Term(condition, fill, at)) for inner, fill, at in sides if fill is not None]


def _holds_product(node: Any, depth: int = 10) -> bool:
    """Whether masks, scaling and soft-capping alone stand between a node and a matrix product."""
    if not isinstance(node, fx.Node) or not depth:
        return False
    if node.target is aten.matmul.default:
        return True
    return node.target in _BETWEEN and any(_holds_product(a, depth - 1) for a in node.all_input_nodes)
