"""Softmax and norms."""

from __future__ import annotations

from .registry import Context, Node, emitter

__all__: list[str] = []


@emitter("softmax", "log_softmax")
def softmax(c: Context) -> Node:
    return getattr(c.o, c.instr.op)(c[0], c.axis())


@emitter("layer_norm")
def layer_norm(c: Context) -> Node:
    y = c.o.mvn(c[0], c.ints(c.type(0).rank - 1), True, c.attrs["eps"], "inside_sqrt")
    if c.given(1):
        y = c.o.multiply(y, c[1])
    return c.o.add(y, c[2]) if c.given(2) else y


@emitter("rms_norm")
def rms_norm(c: Context) -> Node:
    """The form that the NPU's compiler knows as one kernel."""
    x = c[0]
    mean = c.o.reduce_mean(c.o.power(x, c.scalar(2.0)), c.ints(c.type(0).rank - 1), True)
    root = c.o.sqrt(c.o.add(mean, c.scalar(c.attrs["eps"])))
    y = c.o.multiply(x, c.o.divide(c.scalar(1.0), root))
    return c.o.multiply(y, c[1]) if c.given(1) else y
