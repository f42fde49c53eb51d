"""Reductions, cumulative sums and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..registry import Ints, Number, Unsupported, converts

_Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Means of integers are rounded towards zero."""
    if x.is_floating_point():
        return torch.mean(x, axes, keep)
    count = math.prod(x.shape[axis] for axis in axes)
    total = torch.sum(x, axes, keep, dtype=torch.int64)
    return torch.div(total, count, rounding_mode="trunc").to(x.dtype)


def _norm(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sqrt(torch.sum(x * x, axes, keep))


def _log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.log(torch.sum(x, axes, keep))


def _in_float(function: _Reduce, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """A function of floats; what it gives for integers is rounded towards zero."""
    if x.is_floating_point():
        return function(x, axes, keep)
    return function(x.double(), axes, keep).to(x.dtype)


_REDUCTIONS: dict[str, _Reduce] = {
    "ReduceSum": lambda x, axes, keep: torch.sum(x, axes, keep, dtype=x.dtype),
    "ReduceMean": _mean,
    "ReduceMax": lambda x, axes, keep: torch.amax(x, axes, keep),
    "ReduceMin": lambda x, axes, keep: torch.amin(x, axes, keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: torch.sum(torch.abs(x), axes, keep, dtype=x.dtype),
    "ReduceL2": lambda x, axes, keep: _in_float(_norm, x, axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: torch.sum(x * x, axes, keep, dtype=x.dtype),
    "ReduceLogSum": lambda x, axes, keep: _in_float(_log_sum, x, axes, keep),
    "ReduceLogSumExp": lambda x, axes, keep: _in_float(torch.logsumexp, x, axes, keep),
}
_AXES_ARE_INPUTS = {"ReduceSum": 13}
"""Versions from which axes are an input; 18 for all others."""


def _register(name: str, function: _Reduce) -> None:
    def run(x: Tensor, axes: Any, keepdims: int, noop: int) -> Tensor:
        if not axes and noop:
            return x
        chosen = list(axes) if axes else list(range(x.ndim))
        return function(x, chosen, bool(keepdims)) if x.ndim else function(x[None], [0], False)

    @converts(name, since=_AXES_ARE_INPUTS.get(name, 18))
    def reduce(
        x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Tensor:
        return run(x, axes, keepdims, noop_with_empty_axes)

    @converts(name)
    def old_reduce(x: Tensor, *, axes: Any = None, keepdims: int = 1) -> Tensor:
        return run(x, axes, keepdims, 0)


for _name, _function in _REDUCTIONS.items():
    _register(_name, _function)


def _arg(function: Callable[..., Tensor], x: Tensor, axis: int, keepdims: int, last: int) -> Tensor:
    if last:
        raise Unsupported("select_last_index")
    return function(x, axis, bool(keepdims))


@converts("ArgMax")
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg(torch.argmax, x, axis, keepdims, select_last_index)


@converts("ArgMin")
def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg(torch.argmin, x, axis, keepdims, select_last_index)


@converts("CumSum")
def cum_sum(x: Tensor, axis: Number, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    along = int(axis)
    x = x.flip(along) if reverse else x
    total = torch.cumsum(x, along, dtype=x.dtype)
    total = total - x if exclusive else total
    return total.flip(along) if reverse else total


@converts("TopK", since=10)
def top_k(x: Tensor, k: Number, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> Any:
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)  # equal ones in order
    return values.narrow(axis, 0, int(k)), indices.narrow(axis, 0, int(k))


@converts("Softmax", since=13)
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


@converts("LogSoftmax", since=13)
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.log_softmax(x, axis)


def _hardmax(x: Tensor, axis: int) -> Tensor:
    """One at the first of the largest elements, zero elsewhere."""
    view = [1] * x.ndim
    view[axis] = -1
    first = torch.argmax(x, axis, keepdim=True)
    return (torch.arange(x.shape[axis]).reshape(view) == first).to(x.dtype)


@converts("Hardmax", since=13)
def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return _hardmax(x, axis)


def _flattened(function: Callable[[Tensor, int], Tensor], x: Tensor, axis: int) -> Tensor:
    """Before opset 13 all axes from the given one on count as one."""
    axis %= x.ndim
    if axis == x.ndim - 1:
        return function(x, axis)
    return function(x.flatten(axis), axis).reshape(x.shape)


@converts("Softmax")
def old_softmax(x: Tensor, *, axis: int = 1) -> Tensor:
    return _flattened(torch.softmax, x, axis)


@converts("LogSoftmax")
def old_log_softmax(x: Tensor, *, axis: int = 1) -> Tensor:
    return _flattened(torch.log_softmax, x, axis)


@converts("Hardmax")
def old_hardmax(x: Tensor, *, axis: int = 1) -> Tensor:
    return _flattened(_hardmax, x, axis)
