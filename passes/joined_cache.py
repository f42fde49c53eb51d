"""Let attention over a cache with new rows behind it read the cache that these rows were written to.

*Before* ``attention(q, cat(turned cache, new), cat(turned values, new), mask)`` beside ``update_rows(cache,
new, position)`` and the same of the values, where a cache of C rows is turned so that those before the
position are the last, ``cache[(i + position) % C]``: a model that gives its cache back longer, as files of
ONNX do.
*After* the same of what ``update_rows`` gives, with ``length = position + rows``, and with the mask from
column C - position on: no cache is copied, and later rows are not read.
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
        keys, values = _joined(k, context), _joined(v, context)
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


def _joined(x: Any, context: Context) -> _Joined | None:
    if not isinstance(x, fx.Node) or x.target not in JOINS or len(x.args[0]) != 2:
        return None
    rank = node_type(x).rank
    axis = int(x.args[1] if len(x.args) > 1 else x.kwargs.get("dim", 0)) % rank
    turned, new = x.args[0]
    *_, turned = _sources(turned)
    if (
        rank != 4
        or axis != 2
        or not isinstance(new, fx.Node)
        or turned.target is not aten.index_select.default
    ):
        return None
    for cache in _sources(turned.args[0]):
        for update in cache.users:
            written = update.target is UPDATE_ROWS and update.args[0] is cache
            if written and _is_turned(turned, update.args[2], context) and _written(update.args[1], x, new):
                return _Joined(new, update)
    return None


def _is_turned(x: fx.Node, position: fx.Node, context: Context) -> bool:
    """Whether rows of a cache are taken from the position on, and then those before."""
    _, axis, index = x.args
    held = node_type(x).shape[2]
    if axis != 2 or index.target is not aten.remainder.Scalar or index.args[1] != held:
        return False
    moved = index.args[0]
    if moved.target is not aten.add.Tensor or moved.kwargs or position not in moved.args:
        return False
    counted = context.value(next((y for y in moved.args if y is not position), None))
    return counted is not None and torch.equal(counted, torch.arange(held))


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
    """For each row of the cache with new rows in it, the column that was its own before."""
    key = (position, held, rows)
    if key in context.memo:
        hoist(context.memo[key], node)
        return context.memo[key]
    kind = TensorType(DType.I64, (held,))
    counted = graph.get_attr(context.add_constant(torch.arange(held) + held, "columns"))
    counted.meta.update(type=kind, source=node.meta.get("source"))
    moved = new_call(graph, aten.sub.Tensor, (counted, position), like=node, type=kind)
    last = held + rows - 1
    context.memo[key] = new_call(graph, aten.clamp.default, (moved, None, last), like=node, type=kind)
    return context.memo[key]
