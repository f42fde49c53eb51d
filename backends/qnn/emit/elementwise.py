"""Point-wise ops, in whichever form their operands are."""

from __future__ import annotations

import numpy as np

from forgec.ir.program import ConstRef, Instr, Literal, Operand, Register
from forgec.ir.types import DType

from ...vendor.attributes import text
from .builder import Builder, Shape, rows_of
from .registry import emits

__all__ = ["activate", "common_shape"]

_LARGE = 4096
"""Elements from which ``Where`` is slower on HTP than a product and a sum."""

_UNARY = {
    "neg": "Neg",
    "abs": "Abs",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "reciprocal": "Reciprocal",
    "sin": "Sin",
    "cos": "Cos",
    "tanh": "Tanh",
    "erf": "Erf",
    "sigmoid": "Sigmoid",
    "relu": "Relu",
    "softplus": "Softplus",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
    "sign": "Sign",
    "not": "Not",
}
_BINARY = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "pow": "Pow",
    "maximum": "Max",
    "minimum": "Min",
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "and": "And",
    "or": "Or",
    "xor": "Xor",
}


def common_shape(b: Builder, instr: Instr) -> Shape:
    """Rows if some operand is there only as rows and all fit them, else the result's own shape."""
    shape = instr.results[0].type.shape
    rows = rows_of(shape)
    registers = [x for x in instr.registers() if x.type.shape == shape]
    fits = all(
        x.type.shape == shape or x.type.rank <= 1
        for x in instr.operands
        if isinstance(x, Register | ConstRef)
    )
    made_so = any(b.has(x, rows) and not b.has(x, shape) for x in registers)
    return rows if fits and made_so else shape


def _operand(b: Builder, x: Operand, instr: Instr, shape: Shape, like: DType) -> str:
    """An operand for a result of ``shape``: reshaped with it if it is as large, broadcast otherwise."""
    if isinstance(x, Register | ConstRef) and x.type.shape == instr.results[0].type.shape:
        return b.value(x, shape)
    return b.value(x, like=like)


def _types(instr: Instr) -> DType:
    return next(x.type.dtype for x in instr.operands if isinstance(x, Register | ConstRef))


@emits(*_UNARY)
def unary(b: Builder, instr: Instr) -> None:
    shape = common_shape(b, instr)
    b.define(instr.results[0], b.node(_UNARY[instr.op], b.value(instr.operands[0], shape)), shape)


@emits("gelu", "gelu_tanh", "silu")
def activation(b: Builder, instr: Instr) -> None:
    shape = common_shape(b, instr)
    b.define(instr.results[0], activate(b, b.value(instr.operands[0], shape), instr.op), shape)


def activate(b: Builder, x: str, act: str) -> str:
    """``x`` through an activation; the empty name is the identity."""
    match act:
        case "":
            return x
        case "gelu":
            return b.node("Gelu", x)
        case "gelu_tanh":
            return b.node("Gelu", x, approximate="tanh")
        case "silu":
            return b.node("Mul", x, b.node("Sigmoid", x), step="silu")
    return b.node(_UNARY[act], x)


@emits("rsqrt")
def rsqrt(b: Builder, instr: Instr) -> None:
    shape = common_shape(b, instr)
    root = b.node("Sqrt", b.value(instr.operands[0], shape))
    b.define(instr.results[0], b.node("Reciprocal", root), shape)


@emits("gated")
def gated(b: Builder, instr: Instr) -> None:
    shape = common_shape(b, instr)
    gate, up = (b.value(x, shape) for x in instr.operands)
    b.define(instr.results[0], b.node("Mul", activate(b, gate, text(instr, "act")), up), shape)


@emits(*_BINARY)
def binary(b: Builder, instr: Instr) -> None:
    shape, like = common_shape(b, instr), _types(instr)
    left, right = instr.operands
    op = _BINARY[instr.op]
    if instr.op == "div" and isinstance(right, Literal) and right.value:
        op, right = "Mul", Literal(1.0 / right.value)
    first = _operand(b, left, instr, shape, like)
    if instr.op == "pow" and isinstance(right, Literal) and right.value in (2, 3):
        square = b.node("Mul", first, first)
        b.define(instr.results[0], square if right.value == 2 else b.node("Mul", square, first), shape)
        return
    b.define(instr.results[0], b.node(op, first, _operand(b, right, instr, shape, like)), shape)


@emits("ne")
def not_equal(b: Builder, instr: Instr) -> None:
    shape, like = common_shape(b, instr), _types(instr)
    names = [_operand(b, x, instr, shape, like) for x in instr.operands]
    b.define(instr.results[0], b.node("Not", b.node("Equal", *names)), shape)


@emits("clamp")
def clamp(b: Builder, instr: Instr) -> None:
    shape, dtype = common_shape(b, instr), instr.results[0].type.dtype
    name = b.value(instr.operands[0], shape)
    for op, key in (("Max", "low"), ("Min", "high")):
        bound = instr.attrs.get(key)
        if isinstance(bound, int | float):
            name = b.node(op, name, b.scalar(bound, dtype))
    if name == b.value(instr.operands[0], shape):
        name = b.node("Identity", name)
    b.define(instr.results[0], name, shape)


@emits("cast")
def cast(b: Builder, instr: Instr) -> None:
    (x,), result = instr.operands, instr.results[0]
    assert isinstance(x, Register | ConstRef)
    shape = common_shape(b, instr)
    name, source = b.value(x, shape), b.dtype(x.type.dtype)
    wanted = b.dtype(result.type.dtype)
    if wanted is DType.BOOL and source is not DType.BOOL:
        # HTP refuses casts to bool
        name = b.node("Not", b.node("Equal", name, b.scalar(0, source)))
    elif wanted is not source:
        name = b.cast(name, wanted)
    b.define(result, name, shape)


@emits("where")
def where(b: Builder, instr: Instr) -> None:
    condition, yes, no = instr.operands
    result = instr.results[0]
    shape = common_shape(b, instr)
    like = result.type.dtype
    chosen = _operand(b, condition, instr, shape, DType.BOOL)
    names = [_operand(b, x, instr, shape, like) for x in (yes, no)]
    if like.is_float and result.type.numel >= _LARGE and _finite(b, yes) and _finite(b, no):
        switch = b.cast(chosen, like)
        difference = b.node("Mul", switch, b.node("Sub", *names))
        b.define(result, b.node("Add", difference, names[1]), shape)
    else:
        b.define(result, b.node("Where", chosen, *names), shape)


def _finite(b: Builder, x: Operand) -> bool:
    """True for constants so small that their sums and differences are exact enough in f16."""
    if isinstance(x, Literal):
        return abs(x.value) <= 1e4
    array = b.static(x)
    return array is not None and bool(np.all(np.abs(array) <= 1e4))
