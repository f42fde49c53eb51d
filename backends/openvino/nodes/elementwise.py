"""Point-wise ops."""

from __future__ import annotations

from forgec.ir.types import DType

from .registry import Context, Node, emitter

__all__: list[str] = []

_UNARY = {
    "neg": "negative",
    "abs": "abs",
    "exp": "exp",
    "log": "log",
    "sqrt": "sqrt",
    "sin": "sin",
    "cos": "cos",
    "tanh": "tanh",
    "erf": "erf",
    "sigmoid": "sigmoid",
    "relu": "relu",
    "softplus": "softplus",
    "floor": "floor",
    "ceil": "ceiling",
    "sign": "sign",
    "not": "logical_not",
}
_BINARY = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "mod": "floor_mod",
    "pow": "power",
    "maximum": "maximum",
    "minimum": "minimum",
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "and": "logical_and",
    "or": "logical_or",
    "xor": "logical_xor",
}
_OF_BOOLEANS = {
    "add": "or",
    "mul": "and",
    "maximum": "or",
    "minimum": "and",
    "lt": "",
    "le": "",
    "gt": "",
    "ge": "",
}
"""Arithmetic on booleans as logic; comparisons by size go over integers."""


@emitter(*_UNARY)
def unary(c: Context) -> Node:
    if c.instr.op in ("floor", "ceil") and not c.result.dtype.is_float:
        return c[0]
    return getattr(c.o, _UNARY[c.instr.op])(c[0])


@emitter(*_BINARY)
def binary(c: Context) -> Node:
    name = c.instr.op
    a, b = c[0], c[1]
    dtypes = {x.type.dtype for x in c.instr.operands if hasattr(x, "type")}
    if dtypes == {DType.BOOL} and name in _OF_BOOLEANS:
        logical = _OF_BOOLEANS[name]
        if logical:
            return getattr(c.o, _BINARY[logical])(a, b)
        a, b = c.o.convert(a, "i32"), c.o.convert(b, "i32")
    return getattr(c.o, _BINARY[name])(a, b)


@emitter("floor_div")
def floor_div(c: Context) -> Node:
    if c.result.dtype.is_float:
        return c.o.floor(c.o.divide(c[0], c[1]))
    return c.o.divide(c.o.subtract(c[0], c.o.floor_mod(c[0], c[1])), c[1])  # exact, whichever way it rounds


@emitter("rsqrt")
def rsqrt(c: Context) -> Node:
    return c.o.divide(c.scalar(1.0), c.o.sqrt(c[0]))


@emitter("reciprocal")
def reciprocal(c: Context) -> Node:
    return c.o.divide(c.scalar(1.0), c[0])


@emitter("round")
def round_(c: Context) -> Node:
    return c.o.round(c[0], "half_to_even") if c.result.dtype.is_float else c[0]


@emitter("silu")
def silu(c: Context) -> Node:
    return c.o.swish(c[0], c.scalar(1.0))  # the default for beta is f32, whatever the graph's type


@emitter("gelu", "gelu_tanh")
def gelu(c: Context) -> Node:
    return c.o.gelu(c[0], "ERF" if c.instr.op == "gelu" else "TANH")


@emitter("where")
def where(c: Context) -> Node:
    return c.o.select(c[0], c[1], c[2])


@emitter("clamp")
def clamp(c: Context) -> Node:
    y = c[0]
    if c.attrs["low"] is not None:
        y = c.o.maximum(y, c.scalar(c.attrs["low"]))
    return y if c.attrs["high"] is None else c.o.minimum(y, c.scalar(c.attrs["high"]))


@emitter("cast")
def cast(c: Context) -> Node:
    before, after = c.type(0).dtype, DType(c.attrs["dtype"])
    if after is DType.BOOL and before is not DType.BOOL:
        return c.o.not_equal(c[0], c.scalar(0))
    if c.ov_type(before) == c.ov_type(after):
        return c[0]
    return c.o.convert(c[0], c.ov_type(after))
