"""Point-wise ops: unary, binary with broadcasting, selection, casts and gated units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from ..op import Sample, op
from ..types import DType, TensorType
from .rules import (
    binary,
    binary_bool,
    binary_float,
    binary_number,
    broadcast_shapes,
    compare,
    require,
    require_bool,
    require_exact,
    require_float,
    require_number,
    same_float,
    same_number,
    tensor,
)

__all__ = ["ACTIVATIONS", "activate"]

Array = np.ndarray

_DTYPES = [dtype.value for dtype in DType]


def _sigmoid(x: Array) -> Array:
    return special.expit(x)


def _silu(x: Array) -> Array:
    return x * special.expit(x)


def _gelu(x: Array) -> Array:
    return x * 0.5 * (1.0 + special.erf(x * 0.7071067811865476))


def _gelu_tanh(x: Array) -> Array:
    inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + np.tanh(inner))


def _relu(x: Array) -> Array:
    return np.maximum(x, x.dtype.type(0))


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, x.dtype.type(0))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": _relu,
    "silu": _silu,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
}
"""Activations that matrix products and gated units can apply on their way out."""


def activate(x: Array, act: str) -> Array:
    """``x`` through a named activation; the empty name is the identity."""
    return ACTIVATIONS[act](x) if act else x


def _float_samples(rng: np.random.Generator) -> list[Sample]:
    x = rng.standard_normal((2, 3, 5)).astype(np.float32)
    return [
        Sample((x,), {}),
        Sample((x.transpose(2, 0, 1),), {}),
        Sample((np.zeros((0, 4), np.float32),), {}),
    ]


def _positive_samples(rng: np.random.Generator) -> list[Sample]:
    return [Sample((rng.uniform(0.1, 4, (2, 3, 5)).astype(np.float32),), {})]


_Unary = tuple[str, Callable[[Array], Any], Any, tuple[str, ...], Callable[..., list[Sample]], str]
_UNARY: list[_Unary] = [
    ("neg", np.negative, same_number, ("aten.neg",), _float_samples, "Negation."),
    ("abs", np.abs, same_number, ("aten.abs",), _float_samples, "Absolute value."),
    ("exp", np.exp, same_float, ("aten.exp",), _float_samples, "Exponential."),
    ("log", np.log, same_float, ("aten.log",), _positive_samples, "Natural logarithm."),
    ("sqrt", np.sqrt, same_float, ("aten.sqrt",), _positive_samples, "Square root."),
    ("rsqrt", lambda x: 1 / np.sqrt(x), same_float, ("aten.rsqrt",), _positive_samples, "1 / sqrt(x)."),
    ("reciprocal", np.reciprocal, same_float, ("aten.reciprocal",), _positive_samples, "1 / x."),
    ("sin", np.sin, same_float, ("aten.sin",), _float_samples, "Sine, radians."),
    ("cos", np.cos, same_float, ("aten.cos",), _float_samples, "Cosine, radians."),
    ("tanh", np.tanh, same_float, ("aten.tanh",), _float_samples, "Hyperbolic tangent."),
    ("erf", special.erf, same_float, ("aten.erf",), _float_samples, "Error function."),
    ("sigmoid", _sigmoid, same_float, ("aten.sigmoid",), _float_samples, "1 / (1 + exp(-x))."),
    ("silu", _silu, same_float, ("aten.silu",), _float_samples, "x * sigmoid(x)."),
    ("gelu", _gelu, same_float, (), _float_samples, "Gaussian error linear unit, exact (erf)."),
    ("gelu_tanh", _gelu_tanh, same_float, (), _float_samples, "gelu by its tanh approximation."),
    ("relu", _relu, same_number, ("aten.relu",), _float_samples, "max(x, 0)."),
    ("softplus", _softplus, same_float, (), _float_samples, "log(1 + exp(x))."),
    ("floor", np.floor, same_number, ("aten.floor",), _float_samples, "Largest integer not above."),
    ("ceil", np.ceil, same_number, ("aten.ceil",), _float_samples, "Smallest integer not below."),
    ("round", np.round, same_number, ("aten.round",), _float_samples, "Nearest integer, ties to even."),
    ("sign", np.sign, same_number, ("aten.sign",), _float_samples, "-1, 0 or 1."),
]  # fmt: skip


def _register_unary(entry: _Unary) -> None:
    name, function, rule, aten, samples, doc = entry

    def reference(x: Array) -> Array:
        return np.asarray(function(x), x.dtype)

    reference.__doc__ = doc
    op(name, "x", rule=rule, inplace=(0,), aten=aten, samples=samples)(reference)


for _entry in _UNARY:
    _register_unary(_entry)


@op(
    "not",
    "x",
    rule=require_bool,
    inplace=(0,),
    samples=lambda rng: [Sample((rng.random((3, 4)) > 0.5,), {})],
)
def logical_not(x: Array) -> Array:
    """True where x is false."""
    return np.logical_not(x)


def _cast_rule(x: TensorType | None, *, dtype: str) -> TensorType:
    require(dtype in _DTYPES, f"unknown element type {dtype!r}; known: {', '.join(_DTYPES)}")
    return TensorType(DType(dtype), tensor(x).shape)


@op(
    "cast",
    "x",
    rule=_cast_rule,
    attrs={"dtype": "f32"},
    samples=lambda rng: [
        Sample((rng.standard_normal((2, 5)).astype(np.float32) * 9,), {"dtype": "i64"}),
        Sample((rng.integers(-5, 5, (2, 5)),), {"dtype": "f16"}),
        Sample((rng.random((2, 5)) > 0.5,), {"dtype": "f32"}),
    ],
)
def cast(x: Array, *, dtype: str) -> Array:
    """Element type conversion; float to integer truncates towards zero."""
    return x.astype(DType(dtype).numpy)


def _pair_samples(rng: np.random.Generator) -> list[Sample]:
    a = rng.standard_normal((2, 1, 5)).astype(np.float32)
    b = rng.uniform(0.5, 2, (3, 1)).astype(np.float32)
    return [Sample((a, b), {}), Sample((a, 1.5), {}), Sample((2.0, b), {})]


def _int_pair_samples(rng: np.random.Generator) -> list[Sample]:
    return [Sample((rng.integers(-9, 9, (4, 3)), rng.integers(1, 5, (3,))), {})]


def _power_samples(rng: np.random.Generator) -> list[Sample]:
    a = rng.uniform(0.5, 2, (3, 4)).astype(np.float32)
    return [Sample((a, 3.0), {}), Sample((2.0, a), {}), Sample((rng.integers(-4, 4, (3, 2)), 2), {})]


def _bool_pair_samples(rng: np.random.Generator) -> list[Sample]:
    return [Sample((rng.random((4, 3)) > 0.5, rng.random((3,)) > 0.5), {})]


_Binary = tuple[str, Callable[[Any, Any], Any], Any, tuple[str, ...], Callable[..., list[Sample]], str]
_BINARY: list[_Binary] = [
    ("add", np.add, binary, (), _pair_samples, "a + b, broadcasting."),
    ("sub", np.subtract, binary_number, (), _pair_samples, "a - b, broadcasting."),
    ("mul", np.multiply, binary, ("aten.mul",), _pair_samples, "a * b, broadcasting."),
    ("div", np.divide, binary_float, (), _pair_samples, "a / b, floating point, broadcasting."),
    ("floor_div", np.floor_divide, binary_number, (), _int_pair_samples, "Quotient rounded down."),
    ("mod", np.mod, binary_number, ("aten.remainder",), _int_pair_samples, "Remainder, signed as b."),
    ("pow", np.power, binary_number, (), _power_samples, "a to the power b."),
    ("maximum", np.maximum, binary, ("aten.maximum",), _pair_samples, "Larger of two; nan wins."),
    ("minimum", np.minimum, binary, ("aten.minimum",), _pair_samples, "Smaller of two; nan wins."),
    ("eq", np.equal, compare, ("aten.eq",), _int_pair_samples, "a == b."),
    ("ne", np.not_equal, compare, ("aten.ne",), _int_pair_samples, "a != b."),
    ("lt", np.less, compare, ("aten.lt",), _int_pair_samples, "a < b."),
    ("le", np.less_equal, compare, ("aten.le",), _int_pair_samples, "a <= b."),
    ("gt", np.greater, compare, ("aten.gt",), _int_pair_samples, "a > b."),
    ("ge", np.greater_equal, compare, ("aten.ge",), _int_pair_samples, "a >= b."),
    ("and", np.logical_and, binary_bool, (), _bool_pair_samples, "Logical and of booleans."),
    ("or", np.logical_or, binary_bool, (), _bool_pair_samples, "Logical or of booleans."),
    ("xor", np.logical_xor, binary_bool, (), _bool_pair_samples, "Logical exclusive or of booleans."),
]  # fmt: skip


def _register_binary(entry: _Binary) -> None:
    name, function, rule, aten, samples, doc = entry

    def reference(a: Any, b: Any) -> Array:
        dtype = a.dtype if isinstance(a, np.ndarray) else b.dtype
        a, b = np.asarray(a, dtype), np.asarray(b, dtype)
        return np.asarray(function(a, b))

    reference.__doc__ = doc
    op(name, "a b", rule=rule, inplace=(0, 1), aten=aten, samples=samples)(reference)


for _pair in _BINARY:
    _register_binary(_pair)


def _where_rule(condition: TensorType | None, a: TensorType | None, b: TensorType | None) -> TensorType:
    cond = tensor(condition, "condition")
    require(cond.dtype is DType.BOOL, f"condition must be bool, not {cond}")
    chosen = binary(a, b)
    return TensorType(chosen.dtype, broadcast_shapes(cond.shape, chosen.shape))


@op(
    "where",
    "condition a b",
    rule=_where_rule,
    inplace=(1, 2),
    samples=lambda rng: [
        Sample((rng.random((3, 1)) > 0.5, rng.standard_normal((2, 3, 4)).astype(np.float32), -1e9), {}),
        Sample((rng.random((3, 4)) > 0.5, 0.0, rng.standard_normal((4,)).astype(np.float32)), {}),
    ],
)
def where(condition: Array, a: Any, b: Any) -> Array:
    """a where the condition holds, b elsewhere, broadcasting."""
    dtype = a.dtype if isinstance(a, np.ndarray) else b.dtype
    return np.where(condition, np.asarray(a, dtype), np.asarray(b, dtype))


def _clamp_rule(x: TensorType | None, *, low: float | None, high: float | None) -> TensorType:
    t = require_number(x)
    for what, value in (("low", low), ("high", high)):
        if value is not None:
            require_exact(value, t.dtype, what)
    return t


@op(
    "clamp",
    "x",
    rule=_clamp_rule,
    attrs={"low": None, "high": None},
    inplace=(0,),
    samples=lambda rng: [
        Sample((rng.standard_normal((3, 4)).astype(np.float32),), {"low": -0.5, "high": 0.5}),
        Sample((rng.integers(-5, 5, (3, 4)),), {"low": 0}),
    ],
)
def clamp(x: Array, *, low: float | None, high: float | None) -> Array:
    """x limited to [low, high], the upper bound last; None leaves a side open."""
    y = x if low is None else np.maximum(x, x.dtype.type(low))
    return y if high is None else np.minimum(y, y.dtype.type(high))


def _gated_rule(gate: TensorType | None, up: TensorType | None, *, act: str) -> TensorType:
    require(act in ACTIVATIONS, f"unknown activation {act!r}; known: {', '.join(ACTIVATIONS)}")
    g = require_float(gate, "gate")
    require(g == up, f"gate {g} and up {up} must have one type")
    return g


@op(
    "gated",
    "gate up",
    rule=_gated_rule,
    attrs={"act": "silu"},
    inplace=(0, 1),
    flops=lambda types, results, attrs: 6.0 * results[0].numel,
    samples=lambda rng: [
        Sample(
            (
                rng.standard_normal((2, 3, 8)).astype(np.float32),
                rng.standard_normal((2, 3, 8)).astype(np.float32),
            ),
            {"act": act},
        )
        for act in ("silu", "gelu_tanh", "gelu", "sigmoid")
    ],
)
def gated(gate: Array, up: Array, *, act: str) -> Array:
    """Gated unit act(gate) * up: SwiGLU with silu, GeGLU with gelu."""
    return activate(gate, act) * up
