"""Let attention over a cache read only what the cache has.

*Before* ``attention(q, k, v, mask)`` whose k and v are ``update_rows(cache, new, position)``, both written at
one position and as many rows as q has, or such caches of f16 widened to the type of q.
*After* the same of the caches themselves with ``length = position + rows``: later columns are not read, and
nothing but attention widens those before.
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
from ..ir.types import DType
from .base import Context, NodePass, replace
from .fused import attention
from .shapes import CASTS

aten = torch.ops.aten


class CachedAttention(NodePass):
    name = "cached_attention"
    fusion = True
    roots = (attention,)

    def match(self, node: fx.Node, context: Context) -> Any:
        q = node.args[0]
        k, v = caches = [_cache(x) for x in node.args[1:3]]
        if k is None or v is None or node.kwargs.get("length") is not None:
            return None
        (_, keys, position), (_, values, other) = k.args, v.args
        rows = node_type(q).shape[2]
        alike = node_type(keys).shape[2] == node_type(values).shape[2] == rows
        return (caches, position, rows) if alike and position is other else None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        caches, position, rows = match
        with graph.inserting_before(node):
            kind = node_type(position)
            length = new_call(graph, aten.add.Tensor, (position, rows), like=node, type=kind)
            args, kwargs = (node.args[0], *caches, *node.args[3:]), {**node.kwargs, "length": length}
            replace(node, new_call(graph, attention, args, kwargs, like=node))


def _cache(x: Any) -> fx.Node | None:
    """The cache that keys or values are, as it is or widened."""
    widened = isinstance(x, fx.Node) and x.target in CASTS
    if widened and node_type(x.args[0]).dtype is DType.F16:
        x = x.args[0]
    return x if isinstance(x, fx.Node) and x.target is UPDATE_ROWS else None
