"""Fuse attention into one op that keeps no score matrix and repeats no keys.

*Before* aten.scaled_dot_product_attention; or matmul(q, k^T), scaled, perhaps soft-capped (tanh), plus a mask,
softmax, matmul with v. Keys and values perhaps repeated for grouped heads (unsqueeze, expand, reshape).
*After* ``attention(q, k, v, mask, scale, causal, window, softcap)``: a constant mask that is all true, causal, or
causal within a window becomes attributes.
*Does not fire when* an inner value has another user, softmax is not over the keys, or ranks differ from four.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..capture.graph import new_call, node_type
from .base import Context, NodePass, replace
from .fused import attention
from .patterns import ADD, MUL, number
from .shapes import RESHAPES, permutation

aten = torch.ops.aten
_NEGLIGIBLE = -1e4
"""A float mask at or below this excludes: exp of it underflows to zero beside any ordinary score."""


@dataclass
class _Attention:
    q: fx.Node
    k: fx.Node
    v: fx.Node
    mask: Any
    scale: float
    causal: bool = False
    softcap: float = 0.0


class AttentionFusion(NodePass):
    name = "attention_fusion"
    fusion = True
    roots = (aten.scaled_dot_product_attention.default, aten.matmul.default, aten.bmm.default)

    def match(self, node: fx.Node, context: Context) -> Any:
        if node.target is aten.scaled_dot_product_attention.default:
            return _from_operator(node)
        return _from_pieces(node, context)

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        rows, length = node_type(match.q).shape[2], node_type(match.k).shape[2]
        causal, window, mask = match.causal, 0, match.mask
        shape = _classify(mask, context, rows, length)
        if shape is not None:
            masked_causal, window = shape
            causal, mask = causal or masked_causal, None
        args = (match.q, _ungrouped(match.k), _ungrouped(match.v), mask)
        kwargs = {"scale": match.scale, "causal": causal, "window": window, "softcap": match.softcap}
        with graph.inserting_before(node):
            replace(node, new_call(graph, attention, args, kwargs, like=node))


def _from_operator(node: fx.Node) -> _Attention | None:
    names = ("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    given = {**dict(zip(names, node.args[3:], strict=False)), **node.kwargs}
    q, k, v = node.args[:3]
    if any(node_type(x).rank != 4 for x in (q, k, v)):  # type: ignore[arg-type]
        return None
    causal = bool(given.get("is_causal", False))
    if causal and node_type(q).shape[2] != node_type(k).shape[2]:  # type: ignore[arg-type]
        return None  # torch aligns this mask to the first column, the fused op to the last
    scale = given.get("scale")
    if scale is None:
        scale = 1 / math.sqrt(node_type(q).shape[-1])  # type: ignore[arg-type]
    return _Attention(q, k, v, given.get("attn_mask"), float(scale), causal)  # type: ignore[arg-type]


def _from_pieces(node: fx.Node, context: Context) -> _Attention | None:
    weights, v = node.args[:2]
    weights = _only_use(weights, aten.softmax.int, aten._softmax.default)
    if weights is None or not isinstance(v, fx.Node) or node_type(v).rank != 4 or node_type(weights).rank != 4:
        return None
    if int(weights.args[1]) % 4 != 3 or node_type(weights) != node_type(weights.args[0]):  # type: ignore[arg-type]
        return None
    scores, mask = weights.args[0], None
    added = _only_use(scores, *ADD)
    if added is not None:
        sides = [(a, b) for a, b in (added.args[:2], added.args[1::-1]) if _leads_to_product(a)]
        if sides and isinstance(sides[0][1], fx.Node) and node_type(sides[0][1]).dtype is node_type(added).dtype:
            scores, mask = sides[0]
    softcap = 0.0
    capped = _scaled(scores, context)
    if capped is not None and (bend := _only_use(capped[0], aten.tanh.default)) is not None:
        inner = _scaled(bend.args[0], context)
        if inner is not None and math.isclose(inner[1] * capped[1], 1.0, rel_tol=1e-6):
            softcap, scores = capped[1], inner[0]
    scale = 1.0
    while (step := _scaled(scores, context)) is not None:
        scores, scale = step[0], scale * step[1]
    product = _only_use(scores, aten.matmul.default, aten.bmm.default)
    if product is None:
        return None
    q, turned = product.args[:2]
    k = _key(turned)
    if k is None or node_type(q).rank != 4:  # type: ignore[arg-type]
        return None
    return _Attention(q, k, v, mask, scale, softcap=softcap)  # type: ignore[arg-type]


def _only_use(node: Any, *targets: Any) -> fx.Node | None:
    fits = isinstance(node, fx.Node) and node.target in targets and len(node.users) == 1
    return node if fits else None


def _scaled(node: Any, context: Context) -> tuple[Any, float] | None:
    """The other operand and the factor of a multiplication or division by a number."""
    if _only_use(node, *MUL, aten.div.Tensor, aten.div.Scalar) is None:
        return None
    a, b = node.args[:2]
    if (factor := number(b, context)) is not None:
        return a, factor if node.target in MUL else 1 / factor
    if node.target in MUL and (factor := number(a, context)) is not None:
        return b, factor
    return None


def _leads_to_product(node: Any) -> bool:
    """Whether scaling and soft-capping alone stand between a node and a matrix product."""
    for _ in range(6):
        if not isinstance(node, fx.Node):
            return False
        if node.target in (aten.matmul.default, aten.bmm.default):
            return True
        if node.target not in (*MUL, aten.div.Tensor, aten.div.Scalar, aten.tanh.default):
            return False
        node = node.args[0]
    return False


def _key(turned: Any) -> fx.Node | None:
    """k of k^T."""
    if not isinstance(turned, fx.Node) or permutation(turned) != (0, 1, 3, 2):
        return None
    return turned.args[0]  # type: ignore[return-value]


def _ungrouped(node: fx.Node) -> fx.Node:
    """Keys or values before they were repeated for grouped heads; the node itself if they were not."""
    if node.target not in RESHAPES:
        return node
    wide = node.args[0]
    if not isinstance(wide, fx.Node) or wide.target is not aten.expand.default:
        return node
    narrow = wide.args[0]
    if not isinstance(narrow, fx.Node) or narrow.target not in RESHAPES:
        return node
    source = narrow.args[0]
    batch, heads, length, size = node_type(node).shape
    inner, expanded = node_type(source).shape, node_type(wide).shape  # type: ignore[arg-type]
    if len(inner) != 4 or len(expanded) != 5 or inner[0] != batch or inner[2:] != (length, size):
        return node
    groups = heads // inner[1]
    repeats = expanded == (batch, inner[1], groups, length, size)
    return source if repeats and node_type(narrow).shape == (batch, inner[1], 1, length, size) else node  # type: ignore[return-value]


def _classify(mask: Any, context: Context, rows: int, length: int) -> tuple[bool, int] | None:
    """(causal, window) if attributes can stand for the mask; (False, 0) for none at all."""
    if mask is None:
        return False, 0
    while isinstance(mask, fx.Node) and mask.target is aten.expand.default:
        mask = mask.args[0]
    tensor = context.constant(mask)
    if tensor is None:
        return None
    allowed = _allowed(tensor)
    if allowed is None:
        return None
    allowed = allowed.reshape(-1, *allowed.shape[-2:]) if allowed.ndim >= 2 else allowed.reshape(1, 1, -1)
    if not bool((allowed == allowed[:1]).all()):
        return None
    allowed = allowed[0].expand(rows, length)
    if bool(allowed.all()):
        return False, 0
    distance = torch.arange(rows)[:, None] + (length - rows) - torch.arange(length)[None, :]
    causal = distance >= 0
    if bool((allowed == causal).all()):
        return True, 0
    reach = int(distance[allowed].max()) + 1 if bool(allowed.any()) else 0
    return (True, reach) if reach > 0 and bool((allowed == (causal & (distance < reach))).all()) else None


def _allowed(tensor: torch.Tensor) -> torch.Tensor | None:
    """A mask as booleans, or None for a float mask that holds more than "yes" and "no"."""
    if tensor.dtype == torch.bool:
        return tensor
    if tensor.dtype.is_floating_point and bool(((tensor == 0) | (tensor <= _NEGLIGIBLE)).all()):
        return tensor == 0
    return None

