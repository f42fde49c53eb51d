"""Cancel layout conversions, and let attention write in the order that its reader wants.

*Before* a permutation of a permutation; attention whose heads are moved behind the rows.
*After* one permutation or none; ``attention(..., seq_major=True)``.
*Does not fire when* the attention's result has another user, or the permutation is another one.

Contiguous copies do not appear here: lowering inserts one only where strides do not allow a reshape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..graph import new_call
from .base import Context, NodePass, replace
from .fused import attention
from .shapes import PERMUTATIONS, permutation

aten = torch.ops.aten


class Layout(NodePass):
    name = "layout"
    roots = PERMUTATIONS

    def match(self, node: fx.Node, context: Context) -> Any:
        source, perm = node.args[0], permutation(node)
        if not isinstance(source, fx.Node) or perm is None:
            return None
        if perm == tuple(range(len(perm))):
            return source, None
        inner = permutation(source)
        if inner is not None:
            return source.args[0], tuple(inner[axis] for axis in perm)
        heads_last = source.target is attention and perm == (0, 2, 1, 3) and len(source.users) == 1
        return (source, "seq_major") if heads_last and not source.kwargs.get("seq_major") else None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        source, change = match
        with graph.inserting_before(node):
            if change == "seq_major":
                new = new_call(graph, attention, source.args, {**source.kwargs, "seq_major": True}, like=node)
                new.meta["source"] = source.meta.get("source")
            elif change is None or change == tuple(range(len(change))):
                new = source
            else:
                new = new_call(graph, aten.permute.default, (source, list(change)), like=node)
        replace(node, new)
