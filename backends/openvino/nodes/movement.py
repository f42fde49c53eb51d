"""Ops that move elements. A copy is nothing: a model has no layouts."""

from __future__ import annotations

import numpy as np

from .registry import Context, Node, emitter

__all__: list[str] = []


@emitter("reshape")
def reshape(c: Context) -> Node:
    return c.o.reshape(c[0], c.ints(*c.result.shape), False)


@emitter("transpose")
def transpose(c: Context) -> Node:
    return c.o.transpose(c[0], c.ints(*c.attrs["perm"]))


@emitter("slice")
def slice_(c: Context) -> Node:
    start, stop, step = (c.ints(c.attrs[key]) for key in ("start", "stop", "step"))
    return c.o.slice(c[0], start, stop, step, c.ints(c.axis()))


@emitter("expand")
def expand(c: Context) -> Node:
    return c.o.broadcast(c[0], c.ints(*c.result.shape))


@emitter("copy")
def copy(c: Context) -> Node:
    return c[0]


@emitter("concat")
def concat(c: Context) -> Node:
    return c.o.concat([c[i] for i in range(len(c.instr.operands))], c.axis())


@emitter("pad")
def pad(c: Context) -> Node:
    return c.o.pad(
        c[0], c.ints(*c.attrs["before"]), c.ints(*c.attrs["after"]), "constant", c.scalar(c.attrs["value"])
    )


@emitter("flip")
def flip(c: Context) -> Node:
    y, kind = c[0], c.type(0)
    for axis in c.attrs["axes"]:
        backwards = np.arange(kind.shape[axis], dtype=np.int32)[::-1].copy()
        y = c.o.gather(y, c.o.constant(backwards), c.index(axis % kind.rank))
    return y
