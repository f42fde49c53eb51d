"""Reductions, cumulative sums and selection of extremes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..op import Sample, op
from ..types import DType, TensorType
from .rules import (
    normalise_axes,
    normalise_axis,
    require,
    require_bool,
    require_float,
    require_number,
    tensor,
)

Array = np.ndarray


def _reduced(t: TensorType, axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    chosen = normalise_axes(axes, t.rank)
    return tuple(1 if i in chosen else n for i, n in enumerate(t.shape) if keepdims or i not in chosen)


def _reduce_rule(x: TensorType | None, *, axes: tuple[int, ...], keepdims: bool) -> TensorType:
    t = tensor(x)
    return TensorType(t.dtype, _reduced(t, axes, keepdims))


def _sum_rule(x: TensorType | None, *, axes: tuple[int, ...], keepdims: bool) -> TensorType:
    return _reduce_rule(require_number(x), axes=axes, keepdims=keepdims)


def _mean_rule(x: TensorType | None, *, axes: tuple[int, ...], keepdims: bool) -> TensorType:
    return _reduce_rule(require_float(x), axes=axes, keepdims=keepdims)


def _truth_rule(x: TensorType | None, *, axes: tuple[int, ...], keepdims: bool) -> TensorType:
    return _reduce_rule(require_bool(x), axes=axes, keepdims=keepdims)


def _extreme_rule(x: TensorType | None, *, axes: tuple[int, ...], keepdims: bool) -> TensorType:
    t = tensor(x)
    for axis in axes:
        _require_elements(t, axis)
    return _reduce_rule(t, axes=axes, keepdims=keepdims)


def _require_elements(t: TensorType, axis: int) -> None:
    require(t.shape[normalise_axis(axis, t.rank)] > 0, f"axis {axis} of {t} has no element to choose")


def _samples(rng: np.random.Generator) -> list[Sample]:
    x = rng.standard_normal((2, 3, 5)).astype(np.float32)
    return [
        Sample((x,), {"axes": (-1,), "keepdims": True}),
        Sample((x,), {"axes": (0, 2), "keepdims": False}),
    ]


def _bool_samples(rng: np.random.Generator) -> list[Sample]:
    return [Sample((rng.random((2, 3, 5)) > 0.5,), {"axes": (1,), "keepdims": False})]


def _mean(x: Array, axis: tuple[int, ...], keepdims: bool) -> Any:
    total = np.sum(x, axis=axis, keepdims=keepdims)
    return total / x.dtype.type(math.prod(x.shape[a] for a in axis))


_Reduction = tuple[str, Callable[..., Any], Callable[..., TensorType], Callable[..., list[Sample]], str]
_REDUCTIONS: list[_Reduction] = [
    ("sum", np.sum, _sum_rule, _samples, "Sum over axes."),
    ("mean", _mean, _mean_rule, _samples, "Arithmetic mean over axes."),
    ("max", np.max, _extreme_rule, _samples, "Largest element over axes."),
    ("min", np.min, _extreme_rule, _samples, "Smallest element over axes."),
    ("prod", np.prod, _sum_rule, _samples, "Product over axes."),
    ("any", np.any, _truth_rule, _bool_samples, "True where any element is."),
    ("all", np.all, _truth_rule, _bool_samples, "True where all elements are."),
]


def _register(entry: _Reduction) -> None:
    name, function, rule, samples, doc = entry

    def reference(x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
        return np.asarray(function(x, axis=axes, keepdims=keepdims), dtype=x.dtype)

    reference.__doc__ = doc
    op(
        name,
        "x",
        rule=rule,
        attrs={"axes": (), "keepdims": False},
        flops=lambda types, results, attrs: float(types[0].numel),
        samples=samples,
    )(reference)


for _entry in _REDUCTIONS:
    _register(_entry)


def _axis_rule(x: TensorType | None, *, axis: int) -> TensorType:
    t = require_number(x)
    normalise_axis(axis, t.rank)
    return t


@op(
    "cumsum",
    "x",
    rule=_axis_rule,
    attrs={"axis": 0},
    samples=lambda rng: [Sample((rng.integers(-3, 9, (3, 4)),), {"axis": 1})],
)
def cumsum(x: Array, *, axis: int) -> Array:
    """Running sum on one axis."""
    return np.cumsum(x, axis=axis, dtype=x.dtype)


def _argmax_rule(x: TensorType | None, *, axis: int, keepdims: bool) -> TensorType:
    t = tensor(x)
    _require_elements(t, axis)
    return TensorType(DType.I64, _reduced(t, (axis,), keepdims))


@op(
    "argmax",
    "x",
    rule=_argmax_rule,
    attrs={"axis": -1, "keepdims": False},
    flops=lambda types, results, attrs: float(types[0].numel),
    samples=lambda rng: [Sample((rng.standard_normal((3, 7)).astype(np.float32),), {"keepdims": True})],
)
def argmax(x: Array, *, axis: int, keepdims: bool) -> Array:
    """Index of the first largest element on one axis."""
    return np.argmax(x, axis=axis, keepdims=keepdims).astype(np.int64)


def _top_k_rule(x: TensorType | None, *, k: int) -> tuple[TensorType, TensorType]:
    t = require_float(x)
    require(t.rank >= 1 and 0 <= k <= t.shape[-1], f"k = {k} is outside the last axis of {t}")
    shape = (*t.shape[:-1], k)
    return TensorType(t.dtype, shape), TensorType(DType.I64, shape)


@op(
    "top_k",
    "x",
    rule=_top_k_rule,
    attrs={"k": 1},
    flops=lambda types, results, attrs: float(types[0].numel),
    samples=lambda rng: [Sample((rng.standard_normal((3, 7)).astype(np.float32),), {"k": 3})],
)
def top_k(x: Array, *, k: int) -> tuple[Array, Array]:
    """The k largest of the last axis, largest first, and their indices."""
    order = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(x, order, axis=-1), order.astype(np.int64)
