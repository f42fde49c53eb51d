"""Recognise root-mean-square normalisation in pieces.

*Before* x * rsqrt(mean(x^2, last axis) + eps), then perhaps times a weight of the last axis' size.
*After* ``rms_norm(x, weight)``.
*Does not fire when* the mean is over another axis, an inner value has another user, or types change on the way
(lower-precision models that normalise in f32 keep their casts and fuse without the weight).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..capture.graph import new_call, node_type
from .base import Context, NodePass, replace
from .fused import rms_norm
from .patterns import ADD, MUL, Any_, Number, Op, match_pattern
from .shapes import is_constant_expression

aten = torch.ops.aten
_X = Any_("x")
_SQUARES = (Op((aten.pow.Tensor_Scalar,), _X, Number(2.0)), Op(MUL, _X, _X), Op((aten.square.default,), _X))
_PATTERNS = [
    Op(MUL, _X, Op((aten.rsqrt.default,), Op(ADD, Op((aten.mean.dim,), square, Any_("axes"), True), Number("eps"))))
    for square in _SQUARES
]


class RmsNormFusion(NodePass):
    name = "rms_norm_fusion"
    fusion = True
    roots = MUL

    def match(self, node: fx.Node, context: Context) -> Any:
        if not any(isinstance(a, fx.Node) and a.target is aten.rsqrt.default for a in node.args):
            return None
        for pattern in _PATTERNS:
            found = match_pattern(pattern, node, context)
            if found and self._last_axis(found["axes"], found["x"]):
                scaled, weight = self._weight(node)
                return found["x"], weight, found["eps"], scaled
        return None

    @staticmethod
    def _last_axis(axes: Any, x: fx.Node) -> bool:
        return [axis % node_type(x).rank for axis in axes] == [node_type(x).rank - 1]

    @staticmethod
    def _weight(node: fx.Node) -> tuple[fx.Node, fx.Node | None]:
        """The multiplication by a weight that follows, if that is the only user."""
        users = list(node.users)
        if len(users) == 1 and users[0].target in MUL:
            weight = next((a for a in users[0].args if a is not node), None)
            if isinstance(weight, fx.Node) and is_constant_expression(weight):
                kind, own = node_type(weight), node_type(node)
                if kind.shape == own.shape[-1:] and kind.dtype is own.dtype:
                    return users[0], weight
        return node, None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        x, weight, eps, root = match
        with graph.inserting_before(root):
            replace(root, new_call(graph, rms_norm, (x, weight, eps), like=root))
