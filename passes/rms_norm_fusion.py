"""Recognise root-mean-square normalisation in pieces.

*Before* x * rsqrt(mean(x^2, last axis) + eps), also with 1/sqrt or a power of -1/2, then perhaps times a
weight of the last axis' size; aten.rms_norm over the last axis.
*After* ``rms_norm(x, weight)``.
*Does not fire when* the mean is over another axis, an inner value has another user, or types change on the
way (lower-precision models that normalise in f32 keep their casts and fuse without the weight).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..graph import new_call, node_type, torch_dtype
from .base import Context, NodePass, replace
from .fused import rms_norm, takes
from .patterns import ADD, MUL, Any_, Number, Op, match_pattern
from .shapes import is_constant_expression

aten = torch.ops.aten
_X = Any_("x")
_SQUARES = (Op((aten.pow.Tensor_Scalar,), _X, Number(2.0)), Op(MUL, _X, _X), Op((aten.square.default,), _X))
_MEANS = [Op(ADD, Op((aten.mean.dim,), square, Any_("axes"), True), Number("eps")) for square in _SQUARES]
_ROOTS = (aten.rsqrt.default, aten.sqrt.default, aten.pow.Tensor_Scalar, aten.reciprocal.default)
_PATTERNS = [
    pattern
    for mean in _MEANS
    for pattern in (
        Op(MUL, _X, Op((aten.rsqrt.default,), mean)),
        Op(MUL, _X, Op((aten.reciprocal.default,), Op((aten.sqrt.default,), mean))),
        Op(MUL, _X, Op((aten.pow.Tensor_Scalar,), mean, Number(-0.5))),
        Op((aten.div.Tensor,), _X, Op((aten.sqrt.default,), mean)),
    )
]


class RmsNormFusion(NodePass):
    name = "rms_norm_fusion"
    fusion = True
    roots = (*MUL, aten.div.Tensor, aten.rms_norm.default)

    def match(self, node: fx.Node, context: Context) -> Any:
        """x, weight and eps, and the node that gives the normalised value."""
        found = _from_operator(node) if node.target is aten.rms_norm.default else _from_pieces(node, context)
        if found is None:
            return None
        x, weight, eps, root = found
        return found if takes(rms_norm, (x, weight), {"eps": eps}, node_type(root)) else None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        x, weight, eps, root = match
        with graph.inserting_before(root):
            replace(root, new_call(graph, rms_norm, (x, weight, eps), like=root))


def _from_operator(node: fx.Node) -> Any:
    x, axes, weight, eps = [*node.args, None, None][:4]
    if eps is None:
        eps = torch.finfo(torch_dtype(node_type(node).dtype)).eps
    return (x, weight, eps, node) if len(axes) == 1 else None


def _from_pieces(node: fx.Node, context: Context) -> Any:
    if not any(isinstance(a, fx.Node) and a.target in _ROOTS for a in node.args):
        return None
    for pattern in _PATTERNS:
        found = match_pattern(pattern, node, context)
        if found and _is_last_axis(found["axes"], found["x"]):
            root, weight = _weighted(node)
            return found["x"], weight, found["eps"], root
    return None


def _is_last_axis(axes: Any, x: fx.Node) -> bool:
    rank = node_type(x).rank
    return isinstance(axes, list | tuple) and [axis % rank for axis in axes] == [rank - 1]


def _weighted(node: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """The multiplication by a weight that follows, if that is the only user."""
    users = list(node.users)
    if len(users) == 1 and users[0].target in MUL:
        weight = next((a for a in users[0].args if a is not node), None)
        if isinstance(weight, fx.Node) and is_constant_expression(weight):
            kind, own = node_type(weight), node_type(node)
            if kind.shape == own.shape[-1:] and kind.dtype is own.dtype:
                return users[0], weight
    return node, None
