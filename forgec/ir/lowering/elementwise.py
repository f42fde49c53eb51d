"""Converters of point-wise operators; element type promotion becomes explicit casts here."""

from __future__ import annotations

from typing import Any

import torch

from ...errors import UnsupportedOpError
from ...graph import TORCH_DTYPES, torch_dtype
from ..program import Literal, Register
from ..types import DType
from .builder import Const, FunctionBuilder
from .registry import lowers

__all__ = ["binary", "refuse_dropout", "to_result_dtype"]

Scalar = bool | int | float


def literal(value: Scalar, dtype: DType) -> Literal:
    """A Python number as a literal of an element type's kind."""
    if dtype.is_float:
        return Literal(float(value))
    return Literal(bool(value)) if dtype is DType.BOOL else Literal(int(value))


def to_result_dtype(b: FunctionBuilder, x: Any) -> Any:
    """Operand of a unary op in the op's result type (an integer goes into sin() as a float)."""
    result = b.result_type
    if result is None or isinstance(result, tuple) or not result.dtype.is_float:
        return x
    return b.cast(x, result.dtype)


def _common_dtype(b: FunctionBuilder, x: Any, y: Any) -> DType:
    """Element type in which two operands meet, by torch's promotion rules."""

    def stand_in(value: Any) -> Any:
        if isinstance(value, Register | Const):
            return torch.empty((1,) if value.type.rank else (), dtype=torch_dtype(value.type.dtype))
        return value

    return TORCH_DTYPES[torch.result_type(stand_in(x), stand_in(y))]


def binary(b: FunctionBuilder, op: str, x: Any, y: Any, dtype: DType | None = None) -> Any:
    """A broadcasting op on tensors or numbers, operands cast to their common (or the given) element type."""
    common = dtype or _common_dtype(b, x, y)
    operands = [b.cast(v, common) if isinstance(v, Register | Const) else literal(v, common) for v in (x, y)]
    return b.emit(op, *operands)


def _scaled(b: FunctionBuilder, op: str, x: Any, y: Any, alpha: Scalar) -> Any:
    dtype = _common_dtype(b, x, y)
    if alpha != 1:
        y = binary(b, "mul", y, alpha, dtype) if isinstance(y, Register | Const) else y * alpha
    return binary(b, op, x, y, dtype)


@lowers("aten.add")
def add(b: FunctionBuilder, self: Any, other: Any, alpha: Scalar) -> Any:
    return _scaled(b, "or" if _is_bool(self) and _is_bool(other) else "add", self, other, alpha)


@lowers("aten.sub")
def sub(b: FunctionBuilder, self: Any, other: Any, alpha: Scalar) -> Any:
    return _scaled(b, "sub", self, other, alpha)


@lowers("aten.rsub")
def rsub(b: FunctionBuilder, self: Any, other: Any, alpha: Scalar) -> Any:
    dtype = _common_dtype(b, self, other)
    scaled = self if alpha == 1 else binary(b, "mul", self, alpha, dtype)
    return binary(b, "sub", other, scaled, dtype)


def _float_result(b: FunctionBuilder) -> DType:
    assert b.result_type is not None and not isinstance(b.result_type, tuple)
    return b.result_type.dtype


@lowers("aten.div", "aten.true_divide")
def div(b: FunctionBuilder, self: Any, other: Any) -> Any:
    return binary(b, "div", self, other, _float_result(b))


@lowers("aten.div.Tensor_mode", "aten.div.Scalar_mode")
def div_mode(b: FunctionBuilder, self: Any, other: Any, rounding_mode: str | None) -> Any:
    dtype = _float_result(b)
    if rounding_mode == "floor":
        return binary(b, "floor_div", self, other, dtype)
    if rounding_mode is None:
        return binary(b, "div", self, other, dtype)
    wide = DType.F64 if dtype.is_int else dtype
    quotient = binary(b, "div", self, other, wide)
    floor, ceil = b.emit("floor", quotient), b.emit("ceil", quotient)
    truncated = b.emit("where", b.emit("ge", quotient, Literal(0.0)), floor, ceil)
    return b.cast(truncated, dtype)


@lowers("aten.floor_divide")
def floor_divide(b: FunctionBuilder, self: Any, other: Any) -> Any:
    return binary(b, "floor_div", self, other)


@lowers("aten.pow")
def power(b: FunctionBuilder, self: Any, exponent: Any) -> Any:
    return binary(b, "pow", self, exponent)


@lowers("aten.square")
def square(b: FunctionBuilder, self: Any) -> Any:
    return b.emit("mul", self, self)


def _logic(op: str, bitwise: bool) -> Any:
    def convert(b: FunctionBuilder, self: Any, other: Any) -> Any:
        if bitwise and not (_is_bool(self) and _is_bool(other)):
            raise UnsupportedOpError(
                f"bitwise {op} of integers has no lowering", hint="use comparisons and boolean masks"
            )
        return binary(b, op, _truth(b, self), _truth(b, other), DType.BOOL)

    return convert


for _name in ("and", "or", "xor"):
    lowers(f"aten.logical_{_name}")(_logic(_name, bitwise=False))
    lowers(f"aten.bitwise_{_name}", f"aten.__{_name}__")(_logic(_name, bitwise=True))


@lowers("aten.logical_not")
def logical_not(b: FunctionBuilder, self: Any) -> Any:
    return b.emit("not", _truth(b, self))


@lowers("aten.bitwise_not")
def bitwise_not(b: FunctionBuilder, self: Any) -> Any:
    if not _is_bool(self):
        raise UnsupportedOpError("bitwise not of integers has no lowering", hint="use boolean masks")
    return b.emit("not", self)


def _is_bool(x: Any) -> bool:
    return isinstance(x, bool) or (isinstance(x, Register | Const) and x.type.dtype is DType.BOOL)


def _truth(b: FunctionBuilder, x: Any) -> Any:
    return x if _is_bool(x) or not isinstance(x, Register | Const) else binary(b, "ne", x, 0)


@lowers("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def where(b: FunctionBuilder, condition: Any, self: Any, other: Any) -> Any:
    dtype = _float_result(b)
    sides = [
        b.cast(v, dtype) if isinstance(v, Register | Const) else literal(v, dtype) for v in (self, other)
    ]
    if all(isinstance(side, Literal) for side in sides):
        sides[0] = b.tensor(torch.tensor(self, dtype=torch_dtype(dtype)))
    return b.emit("where", condition, *sides)


@lowers("aten.masked_fill")
def masked_fill(b: FunctionBuilder, self: Any, mask: Any, value: Any) -> Any:
    dtype = self.type.dtype
    fill = b.cast(value, dtype) if isinstance(value, Register | Const) else literal(value, dtype)
    return b.emit("where", mask, fill, self)


@lowers("aten.clamp", "aten.clip")
def clamp(b: FunctionBuilder, self: Any, min: Any, max: Any) -> Any:
    if isinstance(min, Register | Const) or isinstance(max, Register | Const):
        lower = self if min is None else binary(b, "maximum", self, min)
        return lower if max is None else binary(b, "minimum", lower, max)
    return b.emit("clamp", to_result_dtype(b, self), low=min, high=max)


@lowers("aten.clamp_min")
def clamp_min(b: FunctionBuilder, self: Any, min: Any) -> Any:
    return (
        binary(b, "maximum", self, min)
        if isinstance(min, Register | Const)
        else b.emit("clamp", self, low=min)
    )


@lowers("aten.clamp_max")
def clamp_max(b: FunctionBuilder, self: Any, max: Any) -> Any:
    return (
        binary(b, "minimum", self, max)
        if isinstance(max, Register | Const)
        else b.emit("clamp", self, high=max)
    )


@lowers("aten.gelu")
def gelu(b: FunctionBuilder, self: Any, approximate: str) -> Any:
    return b.emit("gelu_tanh" if approximate == "tanh" else "gelu", self)


@lowers("aten.hardtanh")
def hardtanh(b: FunctionBuilder, self: Any, min_val: Scalar, max_val: Scalar) -> Any:
    return b.emit("clamp", self, low=min_val, high=max_val)


@lowers("aten.elu")
def elu(b: FunctionBuilder, self: Any, alpha: Scalar, scale: Scalar, input_scale: Scalar) -> Any:
    inner = self if input_scale == 1 else binary(b, "mul", self, input_scale)
    below = binary(b, "mul", binary(b, "sub", b.emit("exp", inner), 1), alpha)
    y = b.emit("where", b.emit("gt", self, Literal(0.0)), self, below)
    return y if scale == 1 else binary(b, "mul", y, scale)


@lowers("aten.expm1")
def expm1(b: FunctionBuilder, self: Any) -> Any:
    return binary(b, "sub", b.emit("exp", to_result_dtype(b, self)), 1)


@lowers("aten.log1p")
def log1p(b: FunctionBuilder, self: Any) -> Any:
    return b.emit("log", binary(b, "add", to_result_dtype(b, self), 1))


@lowers("aten.softplus")
def softplus(b: FunctionBuilder, self: Any, beta: Scalar, threshold: Scalar) -> Any:
    scaled = self if beta == 1 else binary(b, "mul", self, beta)
    y = b.emit("softplus", scaled)
    return y if beta == 1 else binary(b, "div", y, beta)


@lowers("aten.leaky_relu")
def leaky_relu(b: FunctionBuilder, self: Any, negative_slope: Scalar) -> Any:
    positive = b.emit("gt", self, literal(0, self.type.dtype))
    return b.emit("where", positive, self, binary(b, "mul", self, negative_slope))


@lowers("aten.max.other")
def max_other(b: FunctionBuilder, self: Any, other: Any) -> Any:
    return binary(b, "maximum", self, other)


@lowers("aten.min.other")
def min_other(b: FunctionBuilder, self: Any, other: Any) -> Any:
    return binary(b, "minimum", self, other)


@lowers("aten.addcmul")
def addcmul(b: FunctionBuilder, self: Any, tensor1: Any, tensor2: Any, value: Scalar) -> Any:
    product = binary(b, "mul", tensor1, tensor2)
    return binary(b, "add", self, product if value == 1 else binary(b, "mul", product, value))


@lowers("aten.isnan")
def isnan(b: FunctionBuilder, self: Any) -> Any:
    return b.emit("ne", self, self)


@lowers("aten.isinf")
def isinf(b: FunctionBuilder, self: Any) -> Any:
    return b.emit("eq", b.emit("abs", self), Literal(float("inf")))


@lowers("aten.to", "aten._to_copy", "aten.type_as")
def to(b: FunctionBuilder, self: Any) -> Any:
    assert b.result_type is not None and not isinstance(b.result_type, tuple)
    return b.cast(self, b.result_type.dtype)


@lowers(
    "aten.alias",
    "aten.clone",
    "aten.contiguous",
    "aten.detach",
    "aten.lift_fresh",
    "aten.lift_fresh_copy",
    "aten.real",
)
def identity(b: FunctionBuilder, self: Any) -> Any:
    return self


@lowers("aten.dropout", "aten.feature_dropout")
def dropout(b: FunctionBuilder, input: Any, p: float, train: bool) -> Any:
    refuse_dropout(p, train)
    return input


def refuse_dropout(p: float, active: bool) -> None:
    """Raise ``UnsupportedOpError`` for dropout that would change anything."""
    if active and p:
        raise UnsupportedOpError(
            f"dropout with p={p} is active in the captured graph, and gives other results each time",
            hint="pass training=self.training (or dropout_p=0.0), so that evaluation turns it off",
        )
