"""Let attention over a cache read only what the cache has.

*Before* ``attention(q, k, v, mask)`` whose k and v are ``update_rows(cache, new, position)``, both written at
one position and as many rows as q has.
*After* the same with ``length = position + rows``: later columns are not read.
*Does not fire when* only one of k and v is a cache, they were written at different positions, or the rows
written are not those of q. Nothing may depend on later rows of a cache (``update_rows`` says so), therefore
the mask hides them, and not reading them changes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..capture.rows import UPDATE_ROWS
from ..graph import new_call, node_type
from .base import Context, NodePass, replace
from .fused import attention

aten = torch.ops.aten


class CachedAttention(NodePass):
    name = "cached_attention"
    fusion = True
    roots = (attention,)

    def match(self, node: fx.Node, context: Context) -> Any:
        q, k, v = node.args[:3]
        written = all(isinstance(x, fx.Node) and x.target is UPDATE_ROWS for x in (k, v))
        if not written or node.kwargs.get("length") is not None:
            return None
        (_, keys, position), (_, values, other) = k.args, v.args
        rows = node_type(q).shape[2]
        alike = node_type(keys).shape[2] == node_type(values).shape[2] == rows
        return (position, rows) if alike and position is other else None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        position, rows = match
        with graph.inserting_before(node):
            kind = node_type(position)
            length = new_call(graph, aten.add.Tensor, (position, rows), like=node, type=kind)
            replace(node, new_call(graph, attention, node.args, {**node.kwargs, "length": length}, like=node))
