"""Recognise layer normalisation in pieces.

*Before* rms_norm(x - mean(x, last axis)), perhaps plus a bias of the last axis' size: what RMS normalisation
in pieces leaves of layer normalisation in pieces.
*After* aten.layer_norm.
*Does not fire when* the mean is over another axis or of another value, the difference scales its second term,
or types change on the way. A normalised value that others read keeps its bias outside.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..graph import new_call, node_type
from .base import Context, NodePass, replace
from .fused import rms_norm
from .patterns import ADD, Any_, Op, match_pattern, plain
from .shapes import is_constant_expression, same_type

aten = torch.ops.aten
_X = Any_("x")
_CENTRED = Op((aten.sub.Tensor,), _X, Op((aten.mean.dim,), _X, Any_("axes"), True))


class LayerNormFusion(NodePass):
    name = "layer_norm_fusion"
    fusion = True
    roots = (rms_norm,)

    def match(self, node: fx.Node, context: Context) -> Any:
        """x, weight, bias and eps, and the node that gives the normalised value."""
        centred, weight, eps = node.args
        found = match_pattern(_CENTRED, centred, context)
        if found is None or not same_type(node, found["x"]):
            return None
        rank = node_type(node).rank
        if [axis % rank for axis in found["axes"] or ()] != [rank - 1]:
            return None
        root, bias = _biased(node)
        return found["x"], weight, bias, eps, root

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        x, weight, bias, eps, root = match
        with graph.inserting_before(root):
            args = (x, [node_type(x).shape[-1]], weight, bias, eps)
            replace(root, new_call(graph, aten.layer_norm.default, args, like=root))


def _biased(node: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """The sum with a bias that follows, if that is the only user."""
    users = list(node.users)
    if len(users) == 1 and users[0].target in ADD and plain(users[0]):
        bias = next((a for a in users[0].args if a is not node), None)
        if isinstance(bias, fx.Node) and is_constant_expression(bias):
            kind, own = node_type(bias), node_type(node)
            if kind.shape == own.shape[-1:] and kind.dtype is own.dtype:
                return users[0], bias
    return node, None
