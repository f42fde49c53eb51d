"""Fuse gated units: SwiGLU and GeGLU.

*Before* act(gate) * up with act silu, gelu, tanh-gelu or sigmoid. *After* ``gated(gate, up)``.
*Does not fire when* act(gate) has another user, or gate and up differ in type.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..graph import new_call, node_type
from .base import Context, NodePass, replace
from .fused import gated, takes
from .patterns import MUL

aten = torch.ops.aten
ACTS = {aten.silu.default: "silu", aten.gelu.default: "gelu", aten.sigmoid.default: "sigmoid"}


def activation(node: fx.Node) -> str | None:
    """The name of an activation node's function."""
    name = ACTS.get(node.target)
    tanh = node.kwargs.get("approximate", node.args[1] if len(node.args) > 1 else "none") == "tanh"
    return "gelu_tanh" if name == "gelu" and tanh else name


class GatedUnitFusion(NodePass):
    name = "gated_unit_fusion"
    fusion = True
    roots = MUL

    def match(self, node: fx.Node, context: Context) -> Any:
        for acted, up in (node.args[:2], node.args[1::-1]):
            if not isinstance(acted, fx.Node) or not isinstance(up, fx.Node) or len(acted.users) > 1:
                continue
            act = activation(acted)
            if act and acted is not up and takes(gated, (acted, up), {"act": act}, node_type(node)):
                return acted.args[0], up, act
        return None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        with graph.inserting_before(node):
            replace(node, new_call(graph, gated, match, like=node))
