"""Layer and root-mean-square normalisation, with the residual sum before it where that is wanted."""

from __future__ import annotations

import numpy as np

from ..op import Sample, op
from ..types import TensorType
from .rules import require, require_float

Array = np.ndarray


def _x(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def _check_scale(t: TensorType, scale: TensorType | None, what: str) -> None:
    expected = TensorType(t.dtype, t.shape[-1:])
    require(scale is None or scale == expected, f"{what} {scale} must be {expected}")


def _layer_norm_rule(
    x: TensorType | None, weight: TensorType | None, bias: TensorType | None, *, eps: float
) -> TensorType:
    t = require_float(x, "x")
    require(t.rank >= 1 and t.shape[-1] > 0, f"layer_norm needs elements on the last axis, not {t}")
    _check_scale(t, weight, "weight")
    _check_scale(t, bias, "bias")
    return t


@op(
    "layer_norm",
    "x weight? bias?",
    rule=_layer_norm_rule,
    attrs={"eps": 1e-5},
    inplace=(),
    flops=lambda types, results, attrs: 7.0 * results[0].numel,
    samples=lambda rng: [
        Sample((_x(rng, 2, 3, 8), _x(rng, 8), _x(rng, 8)), {}),
        Sample((_x(rng, 3, 8) * 100, _x(rng, 8), None), {"eps": 1e-12}),
        Sample((_x(rng, 8), None, None), {}),
    ],
)
def layer_norm(x: Array, weight: Array | None, bias: Array | None, *, eps: float) -> Array:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    y = centred / np.sqrt(variance + x.dtype.type(eps))
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def _add_layer_norm_rule(
    x: TensorType | None,
    residual: TensorType | None,
    weight: TensorType | None,
    bias: TensorType | None,
    *,
    eps: float,
) -> tuple[TensorType, TensorType]:
    t = _layer_norm_rule(x, weight, bias, eps=eps)
    require(residual == t, f"residual {residual} must have x's type {t}")
    return t, t


@op(
    "add_layer_norm",
    "x residual weight? bias?",
    rule=_add_layer_norm_rule,
    attrs={"eps": 1e-5},
    inplace=(0, 1),
    flops=lambda types, results, attrs: 8.0 * results[0].numel,
    samples=lambda rng: [Sample((_x(rng, 2, 3, 8), _x(rng, 2, 3, 8), _x(rng, 8), _x(rng, 8)), {})],
)
def add_layer_norm(
    x: Array, residual: Array, weight: Array | None, bias: Array | None, *, eps: float
) -> tuple[Array, Array]:
    """Two results: the sum x + residual, and its layer_norm."""
    total = x + residual
    return total, layer_norm(total, weight, bias, eps=eps)


def _rms_norm_rule(x: TensorType | None, weight: TensorType | None, *, eps: float) -> TensorType:
    t = require_float(x, "x")
    require(t.rank >= 1 and t.shape[-1] > 0, f"rms_norm needs elements on the last axis, not {t}")
    _check_scale(t, weight, "weight")
    return t


@op(
    "rms_norm",
    "x weight?",
    rule=_rms_norm_rule,
    attrs={"eps": 1e-6},
    flops=lambda types, results, attrs: 4.0 * results[0].numel,
    samples=lambda rng: [
        Sample((_x(rng, 2, 3, 8), _x(rng, 8)), {}),
        Sample((_x(rng, 2, 3, 4, 8), None), {"eps": 1e-5}),
    ],
)
def rms_norm(x: Array, weight: Array | None, *, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    mean = np.mean(x * x, axis=-1, keepdims=True)
    y = x * (1 / np.sqrt(mean + x.dtype.type(eps)))
    return y if weight is None else y * weight


def _add_rms_norm_rule(
    x: TensorType | None, residual: TensorType | None, weight: TensorType | None, *, eps: float
) -> tuple[TensorType, TensorType]:
    t = _rms_norm_rule(x, weight, eps=eps)
    require(residual == t, f"residual {residual} must have x's type {t}")
    return t, t


@op(
    "add_rms_norm",
    "x residual weight?",
    rule=_add_rms_norm_rule,
    attrs={"eps": 1e-6},
    inplace=(0, 1),
    flops=lambda types, results, attrs: 5.0 * results[0].numel,
    samples=lambda rng: [Sample((_x(rng, 2, 3, 8), _x(rng, 2, 3, 8), _x(rng, 8)), {})],
)
def add_rms_norm(x: Array, residual: Array, weight: Array | None, *, eps: float) -> tuple[Array, Array]:
    """Two results: the sum x + residual, and its rms_norm."""
    total = x + residual
    return total, rms_norm(total, weight, eps=eps)
