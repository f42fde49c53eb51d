"""Normalisations and reductions over rows, with one small scratch row each.

All accumulate as numpy's pairwise summation does, in the element type of the operand.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from .registry import Array, Call, Step, is_blas_float, kernel

__all__ = ["softmax_in_place"]


def _column(call: Call, x: Array, axis: int = -1) -> Array:
    """Scratch for one number per row of ``x``, with the reduced axis kept."""
    shape = list(x.shape)
    shape[axis] = 1
    return call.scratch.take(tuple(shape), x.dtype)


def _sums(x: Array, column: Array, axis: int = -1) -> None:
    np.add.reduce(x, axis=axis, out=column, keepdims=True)


def _maxima(x: Array, column: Array, axis: int = -1) -> None:
    """Largest elements; -inf of nothing."""
    np.maximum.reduce(x, axis=axis, out=column, keepdims=True, initial=-np.inf)


@kernel("layer_norm")
def _layer_norm(call: Call) -> Step | None:
    weight, bias = call.inputs[1], call.inputs[2]
    return _bind_layer_norm(call, call.array(0), weight, bias, call.out)


@kernel("add_layer_norm")
def _add_layer_norm(call: Call) -> Step | None:
    total, out = call.outputs
    return _after_sum(call, _bind_layer_norm(call, total, call.inputs[2], call.inputs[3], out))


@kernel("rms_norm")
def _rms_norm(call: Call) -> Step | None:
    return _bind_rms_norm(call, call.array(0), call.inputs[1], call.out)


@kernel("add_rms_norm")
def _add_rms_norm(call: Call) -> Step | None:
    total, out = call.outputs
    return _after_sum(call, _bind_rms_norm(call, total, call.inputs[2], out))


def _after_sum(call: Call, norm: Step | None) -> Step | None:
    """The sum of operands 0 and 1 into the first output, then ``norm`` of that."""
    if norm is None:
        return None
    x, residual, total = call.array(0), call.array(1), call.outputs[0]

    def step() -> None:
        np.add(x, residual, total)
        norm()

    return step


def _bind_layer_norm(
    call: Call, x: Array, weight: Array | None, bias: Array | None, out: Array
) -> Step | None:
    if not is_blas_float(x):
        return None
    size = x.dtype.type(x.shape[-1])
    eps = x.dtype.type(call.attrs["eps"])
    column, squares = _column(call, x), call.scratch.take(x.shape, x.dtype)

    def step() -> None:
        _sums(x, column)
        np.divide(column, size, column)
        np.subtract(x, column, out)
        np.multiply(out, out, squares)
        _sums(squares, column)
        np.divide(column, size, column)
        np.add(column, eps, column)
        np.sqrt(column, column)
        np.divide(out, column, out)
        if weight is not None:
            np.multiply(out, weight, out)
        if bias is not None:
            np.add(out, bias, out)

    return step


def _bind_rms_norm(call: Call, x: Array, weight: Array | None, out: Array) -> Step | None:
    if not is_blas_float(x):
        return None
    size = x.dtype.type(x.shape[-1])
    eps = x.dtype.type(call.attrs["eps"])
    column = _column(call, x)

    def step() -> None:
        np.multiply(x, x, out)
        _sums(out, column)
        np.divide(column, size, column)
        np.add(column, eps, column)
        np.sqrt(column, column)
        np.reciprocal(column, column)
        np.multiply(x, column, out)
        if weight is not None:
            np.multiply(out, weight, out)

    return step


@kernel("softmax")
def _softmax(call: Call) -> Step | None:
    x, out, axis = call.array(0), call.out, call.attrs["axis"]
    if not is_blas_float(x) or x.ndim == 0:
        return None
    column = _column(call, x, axis)

    def step() -> None:
        _maxima(x, column, axis)
        np.subtract(x, column, out)
        np.exp(out, out)
        _sums(out, column, axis)
        np.divide(out, column, out)

    return step


@kernel("log_softmax")
def _log_softmax(call: Call) -> Step | None:
    x, out, axis = call.array(0), call.out, call.attrs["axis"]
    if not is_blas_float(x) or x.ndim == 0 or x.size == 0:
        return None
    column, work = _column(call, x, axis), call.scratch.take(x.shape, x.dtype)

    def step() -> None:
        _maxima(x, column, axis)
        np.subtract(x, column, out)
        np.exp(out, work)
        _sums(work, column, axis)
        np.log(column, column)
        np.subtract(out, column, out)

    return step


def softmax_in_place(scores: Array, column: Array, masked: bool) -> None:
    """exp(scores - max) over the last axis in place, and the sums of that into ``column``; the caller
    divides.

    With ``masked``, rows of nothing but -inf give zeros with the sum 1.
    """
    _maxima(scores, column)
    if masked:
        column[column == -np.inf] = 0
    np.subtract(scores, column, scores)
    np.exp(scores, scores)
    _sums(scores, column)
    if masked:
        column[column == 0] = 1


_REDUCTIONS: dict[str, Callable[..., object]] = {
    "sum": np.add.reduce,
    "prod": np.multiply.reduce,
    "max": np.maximum.reduce,
    "min": np.minimum.reduce,
    "mean": np.mean,
}


@kernel(*_REDUCTIONS)
def _reduce(call: Call) -> Step | None:
    x = call.array(0)
    if not is_blas_float(x) or x.size == 0:
        return None
    axes = tuple(call.attrs["axes"])
    return partial(_REDUCTIONS[call.op], x, axis=axes, out=call.out, keepdims=call.attrs["keepdims"])
