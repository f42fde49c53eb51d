"""Reductions, running sums and orders."""

from __future__ import annotations

from collections.abc import Sequence

from forgec.ir.types import DType

from .registry import Context, Node, emitter

__all__: list[str] = []

_REDUCE = {
    "sum": "reduce_sum",
    "mean": "reduce_mean",
    "prod": "reduce_prod",
    "max": "reduce_max",
    "min": "reduce_min",
    "any": "reduce_logical_or",
    "all": "reduce_logical_and",
}


@emitter(*_REDUCE)
def reduce(c: Context) -> Node:
    rank, before = c.type(0).rank, c.type(0).dtype
    axes = sorted(axis % rank for axis in c.attrs["axes"])
    if not axes:
        return c[0]
    if before is DType.BOOL and c.instr.op in ("max", "min"):
        logical = "reduce_logical_or" if c.instr.op == "max" else "reduce_logical_and"
        return getattr(c.o, logical)(c[0], c.ints(*axes), c.attrs["keepdims"])
    return getattr(c.o, _REDUCE[c.instr.op])(c[0], c.ints(*axes), c.attrs["keepdims"])


@emitter("cumsum")
def cumsum(c: Context) -> Node:
    return c.o.cum_sum(c[0], c.index(c.axis()))


@emitter("argmax")
def argmax(c: Context) -> Node:
    found = c.o.topk(c[0], c.index(1), c.axis(), "max", "value", "i32", True)
    index = found.output(1)
    return index if c.attrs["keepdims"] else c.o.squeeze(index, c.ints(c.axis()))


@emitter("top_k")
def top_k(c: Context) -> Sequence[Node]:
    found = c.o.topk(c[0], c.index(c.attrs["k"]), c.type(0).rank - 1, "max", "value", "i32", True)
    return found.output(0), found.output(1)
