"""Fuse attention into one op that keeps no score matrix and repeats no keys.

*Before* aten.scaled_dot_product_attention; or matmul(q, k^T), scaled, perhaps soft-capped (tanh), masks added
or filled in, softmax (in f32 if the rest is 16-bit), perhaps zeros for its NaN, matmul with v. Queries and
keys perhaps scaled on their own, keys and values perhaps repeated for grouped heads. Fused attention whose
mask became known since.
*After* ``attention(q, k, v, mask, scale, causal, window, softcap)``: a constant mask that is all true,
causal, or causal within a window becomes attributes (see :mod:`.masks`).
*Does not fire when* an inner value has another user, softmax is not over the keys, a sum scales its second
term, dropout is active, ranks differ from four, or the mask or the shapes are none that the fused op takes.

A row of which everything is excluded gives zeros, as in the operator; written out, it is NaN in eager.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..graph import new_call, node_type
from .attention_forms import Attention, from_operator, from_pieces, scaled
from .base import Context, NodePass, replace
from .fused import attention, takes
from .masks import Term, build, reduce_terms, types, unexpanded
from .shapes import RESHAPES, permutation

aten = torch.ops.aten


class AttentionFusion(NodePass):
    name = "attention_fusion"
    fusion = True
    roots = (aten.scaled_dot_product_attention.default, aten.matmul.default, attention)

    def match(self, node: fx.Node, context: Context) -> Any:
        if node.target is attention:
            return _with_known_mask(node, context)
        found = from_pieces(node, context) if node.target is aten.matmul.default else from_operator(node)
        if found is None:
            return None
        rows, length = node_type(found.q).shape[2], found.key_type().shape[2]
        found.terms, causal, found.window = reduce_terms(found.terms, rows, length, context)
        found.causal |= causal
        _take_query_scale(found, context)
        _take_ungrouped(found)
        return found if _is_legal(found, node) else None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        if node.target is attention:
            args, kwargs = match
        else:
            args, kwargs = _arguments(graph, node, match, context), match.attributes()
        with graph.inserting_before(node):
            replace(node, new_call(graph, attention, args, kwargs, like=node))


def _arguments(graph: fx.Graph, node: fx.Node, found: Attention, context: Context) -> tuple[Any, ...]:
    """The fused op's operands."""
    q, k = found.q, found.k
    with graph.inserting_before(node):
        if found.turned:
            k = new_call(graph, aten.transpose.int, (k, 2, 3), like=node, type=found.key_type())
        mask = build(graph, found.terms, node_type(node).dtype, context, like=node)
    for scaling, unscaled in found.scalings:
        q = unscaled if q is scaling else q
        replace(scaling, unscaled)
    return q, k, found.v, mask


def _is_legal(found: Attention, node: fx.Node) -> bool:
    """Whether the fused op takes these operands and gives the type of what it replaces."""
    dtype = node_type(node).dtype
    if not all(term.legal(dtype) for term in found.terms):
        return False
    operands = [found.q, found.key_type(), found.v, types(found.terms, dtype), None]
    return takes(attention, operands, found.attributes(), node_type(node))


def _with_known_mask(node: fx.Node, context: Context) -> Any:
    """New arguments for fused attention whose mask can be dropped or was expanded."""
    q, k, v, mask = node.args
    if mask is None:
        return None
    attributes = dict(node.kwargs)
    if not attributes["causal"] and not attributes["window"]:
        rows, length = node_type(q).shape[2], node_type(k).shape[2]
        rest, causal, window = reduce_terms([Term(mask)], rows, length, context)
        if not rest:
            return (q, k, v, None), {**attributes, "causal": causal, "window": window}
    source = unexpanded(mask)
    return ((q, k, v, source), attributes) if source is not mask else None


def _take_query_scale(found: Attention, context: Context) -> None:
    """Scale the scores by the number that the queries were multiplied by, before or after they were split in
    heads."""
    node: Any = found.q
    if node in (found.k, found.v, *(term.node for term in found.terms)):
        return
    while isinstance(node, fx.Node) and len(node.users) == 1:
        if (step := scaled(node, context)) is not None:
            found.scalings.append((node, step[0]))
            found.scale *= step[1]
            node = step[0]
        elif node.target in RESHAPES or permutation(node) is not None:
            node = node.args[0]
        else:
            break


def _take_ungrouped(found: Attention) -> None:
    """Take keys and values from before they were repeated for grouped heads, if both were."""
    k, v = _ungrouped(found.k), _ungrouped(found.v)
    if (
        not found.turned
        and k is not None
        and v is not None
        and node_type(k).shape[1] == node_type(v).shape[1]
    ):
        found.k, found.v = k, v


def _ungrouped(node: fx.Node) -> fx.Node | None:
    """x of a rank-four repeat_interleave(x, n, 1), or of the reshape(expand(reshape(x))) that is the same,
    else None."""
    if node.target is aten.repeat_interleave.self_int:
        axis = node.args[2] if len(node.args) > 2 else None
        return node.args[0] if axis in (1, -3) else None
    wide = node.args[0] if node.target in RESHAPES else None
    narrow = wide.args[0] if isinstance(wide, fx.Node) and wide.target is aten.expand.default else None
    if not isinstance(narrow, fx.Node) or narrow.target not in RESHAPES:
        return None
    source = narrow.args[0]
    inner, (batch, heads, length, size) = node_type(source).shape, node_type(node).shape
    if len(inner) != 4 or not inner[1] or (inner[0], *inner[2:]) != (batch, length, size):
        return None
    groups, repeated = (batch, inner[1]), (length, size)
    fits = node_type(wide).shape == (*groups, heads // inner[1], *repeated)
    return source if fits and node_type(narrow).shape == (*groups, 1, *repeated) else None
