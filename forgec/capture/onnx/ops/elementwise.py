"""Point-wise operators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import CONTRIB, Number, Operand, Unsupported, converts
from ..tensors import computed_type

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "BitwiseNot": torch.bitwise_not, "Ceil": torch.ceil,
    "Cos": torch.cos, "Cosh": torch.cosh, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor,
    "HardSwish": F.hardswish, "IsNaN": torch.isnan, "Log": torch.log, "Mish": F.mish, "Neg": torch.neg,
    "Not": torch.logical_not, "Reciprocal": torch.reciprocal, "Relu": F.relu, "Round": torch.round,
    "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh,
    "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt, "Tan": torch.tan, "Tanh": torch.tanh,
}  # fmt: skip


def _register_unary(name: str, function: Callable[[Tensor], Tensor]) -> None:
    @converts(name)
    def unary(x: Tensor) -> Tensor:
        return function(x)


for _name, _function in _UNARY.items():
    _register_unary(_name, _function)

_BINARY: dict[str, Callable[[Any, Any], Tensor]] = {
    "Add": lambda a, b: a + b, "Sub": lambda a, b: a - b, "Mul": lambda a, b: a * b,
    "Equal": lambda a, b: a == b, "Greater": lambda a, b: a > b, "GreaterOrEqual": lambda a, b: a >= b,
    "Less": lambda a, b: a < b, "LessOrEqual": lambda a, b: a <= b,
}  # fmt: skip


def _register_binary(name: str, function: Callable[[Any, Any], Tensor]) -> None:
    @converts(name, since=7)
    def binary(a: Operand, b: Operand) -> Tensor:
        return function(a, b)


for _name, _binary in _BINARY.items():
    _register_binary(_name, _binary)

_LOGICAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
}  # fmt: skip


def _register_logical(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    @converts(name, since=7)
    def logical(a: Tensor, b: Tensor) -> Tensor:
        return function(a, b)


for _name, _logical in _LOGICAL.items():
    _register_logical(_name, _logical)


def _is_float(*operands: Operand) -> bool:
    tensors = [x for x in operands if isinstance(x, Tensor)]
    return tensors[0].is_floating_point()


@converts("Div", since=7)
def div(a: Operand, b: Operand) -> Tensor:
    if not _is_float(a, b):
        return torch.div(_tensor(a, b), b, rounding_mode="trunc")
    if not isinstance(a, Tensor) and isinstance(b, Tensor) and a == 1:
        return torch.reciprocal(b)
    return _tensor(a, b) / b


def _tensor(a: Operand, other: Operand) -> Tensor:
    """A number as a tensor of another's type."""
    if isinstance(a, Tensor):
        return a
    assert isinstance(other, Tensor)
    return torch.tensor(a, dtype=other.dtype)


@converts("Mod")
def mod(a: Operand, b: Operand, *, fmod: int = 0) -> Tensor:
    return torch.fmod(_tensor(a, b), b) if fmod else torch.remainder(_tensor(a, b), b)


@converts("Pow", since=7)
def power(a: Operand, b: Operand) -> Tensor:
    if isinstance(a, Tensor):
        return torch.pow(a, b).to(a.dtype)
    assert isinstance(b, Tensor)
    return torch.pow(a, b)


def _reduce(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def reduced(*xs: Tensor) -> Tensor:
        return functools.reduce(function, xs)

    return reduced


converts("Max")(_reduce(torch.maximum))
converts("Min")(_reduce(torch.minimum))
converts("Sum")(_reduce(torch.add))


@converts("Mean")
def mean(*xs: Tensor) -> Tensor:
    return functools.reduce(torch.add, xs) / len(xs)


@converts("Where")
def where(condition: Tensor, x: Operand, y: Operand) -> Tensor:
    return torch.where(condition, x, y)


@converts("Clip", since=11)
def clip(x: Tensor, low: Number | None = None, high: Number | None = None) -> Tensor:
    return x if low is None and high is None else torch.clamp(x, low, high)


@converts("Clip", since=6)
def old_clip(x: Tensor, *, min: float | None = None, max: float | None = None) -> Tensor:
    return clip(x, min, max)


@converts("IsInf")
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    if detect_negative and detect_positive:
        return torch.isinf(x)
    if not detect_negative and not detect_positive:
        return torch.zeros_like(x, dtype=torch.bool)
    return x == (float("inf") if detect_positive else float("-inf"))


@converts("Cast")
def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return x.to(computed_type(to))


@converts("CastLike")
def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return x.to(like.dtype)


@converts("Identity", view=True)
def identity(x: Tensor) -> Tensor:
    return x


@converts("Dropout", since=12)
def dropout(
    x: Tensor, ratio: Number | None = None, training: Number | None = None, *, outputs: int, seed: int = 0
) -> Any:
    if training:
        raise Unsupported("training mode")
    return x if outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))


@converts("Dropout", since=7)
def old_dropout(x: Tensor, *, ratio: float = 0.5) -> Tensor:
    return x


@converts("Gelu", since=20)
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


@converts("Gelu", domain=CONTRIB)
def contrib_gelu(x: Tensor) -> Tensor:
    return F.gelu(x)


@converts("BiasGelu", domain=CONTRIB)
def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(x + bias)


@converts("FastGelu", domain=CONTRIB)
def fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@converts("QuickGelu", domain=CONTRIB)
def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    return _swish(x, alpha)


@converts("Swish", since=24)
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return _swish(x, alpha)


def _swish(x: Tensor, alpha: float) -> Tensor:
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(x * alpha)


@converts("BiasSplitGelu", domain=CONTRIB)
def bias_split_gelu(x: Tensor, bias: Tensor) -> Tensor:
    value, gate = (x + bias).chunk(2, -1)
    return value * F.gelu(gate)


@converts("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


@converts("ThresholdedRelu", since=10)
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, 0.0)


@converts("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


@converts("Celu", since=12)
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return alpha * F.elu(x / alpha)


@converts("Selu")
def selu(
    x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Tensor:
    return gamma * (torch.clamp_min(x, 0) + torch.clamp_max(alpha * (torch.exp(x) - 1), 0))


@converts("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


@converts("PRelu")
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)
