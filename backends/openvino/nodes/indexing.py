"""Look-ups and scatters by index."""

from __future__ import annotations

from collections.abc import Sequence

from .registry import Context, Node, emitter

__all__: list[str] = []


@emitter("embedding")
def embedding(c: Context) -> Node:
    return c.o.gather(c[0], c[1], c.index(0))


@emitter("gather")
def gather(c: Context) -> Node:
    axis, count, rank = c.axis(), len(c.instr.operands) - 1, c.type(0).rank
    if count == 1:
        return c.o.gather(c[0], c[1], c.index(axis))
    indexed = range(axis, axis + count)
    rest = [a for a in range(rank) if a not in indexed]
    x = c[0] if axis == 0 else c.o.transpose(c[0], c.ints(*indexed, *rest))
    found = c.o.gather_nd(x, _stacked(c, 1), 0)
    places = c.result.rank - len(rest)  # axes of the indices, which stand in front now
    order = [*range(places, places + axis), *range(places), *range(places + axis, c.result.rank)]
    return found if axis == 0 else c.o.transpose(found, c.ints(*order))


@emitter("take_along")
def take_along(c: Context) -> Node:
    axis, x, kind, index = c.axis(), c[0], c.type(0), c.type(1)
    for other, (have, want) in enumerate(zip(kind.shape, index.shape, strict=True)):
        if other != axis and want < have:
            x = c.o.slice(x, c.ints(0), c.ints(want), c.ints(1), c.ints(other))
    return c.o.gather_elements(x, c[1], axis)


@emitter("scatter")
def scatter(c: Context) -> Node:
    indices = _stacked(c, 2)
    shape = _broadcast([c.type(i).shape for i in range(2, len(c.instr.operands))])
    target = (*shape, *c.type(0).shape[len(c.instr.operands) - 2 :])
    updates = c.o.broadcast(c[1], c.ints(*target))
    return c.o.scatter_nd_update(c[0], indices, updates, "sum" if c.attrs["accumulate"] else "none")


def _stacked(c: Context, first: int) -> Node:
    """Index operands from ``first`` on, broadcast, on a new last axis."""
    count = len(c.instr.operands)
    shape = _broadcast([c.type(i).shape for i in range(first, count)])
    spread = [c.o.broadcast(c[i], c.ints(*shape)) for i in range(first, count)]
    return c.o.concat([c.o.unsqueeze(x, c.ints(len(shape))) for x in spread], len(shape))


def _broadcast(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(max(sizes) if 0 not in sizes else 0 for sizes in zip(*padded, strict=True))
