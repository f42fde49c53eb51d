"""Let attention over a cache with new rows behind it read the cache that these rows were written to.

*Before* ``attention(q, cat(cache, new), cat(values, new), mask)`` beside ``update_rows(cache, new,
position)`` and the same of the values: a model that gives its cache back longer, as files of ONNX do.
*After* the same of what ``update_rows`` gives, with ``length = position + rows``, and with the mask's columns
for new rows at their place: no cache is copied, and later rows are not read.
*Does not fire when* only one of k and v is such, there is no mask over all columns, or q has another number
of rows. What a cache has from ``position`` on means nothing before the update (``update_rows`` says so),
therefore the mask hides it. New rows are then read as they are kept, rounded if the cache is f16.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import fx

from ..capture.rows import UPDATE_ROWS
from ..graph import new_call, node_type
from ..ir.types import DType, TensorType
from .base import Context, NodePass, replace
from .fused import attention
from .shapes import CASTS, IDENTITY, JOINS, hoist, part_of

aten = torch.ops.aten


class _Joined(NamedTuple):
    """Rows behind a cache, and the update that writes them to it."""

    new: fx.Node
    update: fx.Node


class JoinedCache(NodePass):
    name = "joined_cache"
    fusion = True
    roots = (attention,)

    def match(self, node: fx.Node, context: Context) -> Any:
        q, k, v, *rest = node.args
        keys, values = _joined(k), _joined(v)
        mask = rest[0] if rest else node.kwargs.get("mask")
        if keys is None or values is None or not isinstance(mask, fx.Node):
            return None
        plain = len(rest) < 2 and not any(node.kwargs.get(key) for key in ("causal", "window", "length"))
        if not plain or keys.update.args[2] is not values.update.args[2]:
            return None
        rows = node_type(q).shape[2]
        alike = node_type(keys.new).shape[2] == node_type(values.new).shape[2] == rows
        return (keys, values, mask) if alike and node_type(mask).shape[-1] == node_type(k).shape[2] else None

    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        keys, values, mask = match
        rows, held = node_type(keys.new).shape[2], node_type(keys.update).shape[2]
        position = keys.update.args[2]
        for joined in (keys, values):
            hoist(joined.update, node)
        with graph.inserting_before(node):
            index = _columns(graph, node, position, held, rows, context)
            kind = node_type(mask)
            moved = TensorType(kind.dtype, (*kind.shape[:-1], held))
            mask = new_call(graph, aten.index_select.default, (mask, -1, index), like=node, type=moved)
            length = new_call(graph, aten.add.Tensor, (position, rows), like=node, type=node_type(position))
            args = (node.args[0], keys.update, values.update, mask)
            kwargs = {key: value for key, value in node.kwargs.items() if key != "mask"}
            new = new_call(graph, attention, args, {**kwargs, "length": length}, like=node)
        replace(node, new)


def _joined(x: Any) -> _Joined | None:
    if not isinstance(x, fx.Node) or x.target not in JOINS or len(x.args[0]) != 2:
        return None
    rank = node_type(x).rank
    axis = int(x.args[1] if len(x.args) > 1 else x.kwargs.get("dim", 0)) % rank
    before, new = x.args[0]
    if rank != 4 or axis != 2 or not isinstance(new, fx.Node):
        return None
    for cache in _sources(before):
        for update in cache.users:
            if update.target is UPDATE_ROWS and update.args[0] is cache and _written(update.args[1], x, new):
                return _Joined(new, update)
    return None


def _sources(x: Any) -> Iterator[fx.Node]:
    """A value, and what it is before casts, and before it was limited for them."""
    while isinstance(x, fx.Node):
        yield x
        x = x.args[0] if x.target in (*CASTS, *IDENTITY, aten.clamp.default) else None


def _written(x: Any, joined: fx.Node, new: fx.Node) -> bool:
    """Whether rows are those behind the cache, or what the rows that were joined have there."""
    (*_, first), (*_, wanted) = _sources(x), _sources(new)
    rows, whole = node_type(new).shape[2], node_type(joined).shape[2]
    taken = first.args[:1] == (joined,) and part_of(first) == (2, whole - rows, whole, 1)
    return first is wanted or taken


def _columns(
    graph: fx.Graph, node: fx.Node, position: fx.Node, held: int, rows: int, context: Context
) -> fx.Node:
    """For each row of the cache with new rows in it, its column before: its own, or of the row behind."""
    key = (position, held, rows)
    if key in context.memo:
        hoist(context.memo[key], node)
        return context.memo[key]
    counted = graph.get_attr(context.add_constant(torch.arange(held), "rows"))
    counted.meta.update(type=TensorType(DType.I64, (held,)), source=node.meta.get("source"))
    shape = TensorType(DType.I64, (held,))

    def call(target: Any, *args: Any, kind: TensorType = shape) -> fx.Node:
        return new_call(graph, target, args, like=node, type=kind)

    behind = call(
        aten.clamp.default,
        call(aten.add.Tensor, call(aten.sub.Tensor, counted, position), held),
        None,
        held + rows - 1,
    )
    old = call(aten.lt.Tensor, counted, position, kind=TensorType(DType.BOOL, (held,)))
    context.memo[key] = call(aten.where.self, old, counted, behind)
    return context.memo[key]
