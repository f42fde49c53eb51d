"""Pooling tap by tap: one pass of the whole result for each element of a window."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from forgec.ir.ops.pooling import divisors, windows

from .registry import Call, Step, is_blas_float, kernel

__all__: list[str] = []

_PLANES = (slice(None), slice(None))
"""All of the batch and all channels."""


class _Tap(NamedTuple):
    """The results along an axis to which a tap contributes, and the elements that it finds for them."""

    results: slice
    elements: slice


def _tap(size: int, count: int, stride: int, offset: int) -> _Tap | None:
    """Of elements ``i * stride + offset`` those inside an axis of ``size``, for results ``i``."""
    low = max(0, -(offset // stride))
    high = min(count, -((offset - size) // stride))
    if low >= high:
        return None
    first = low * stride + offset
    return _Tap(slice(low, high), slice(first, first + (high - low - 1) * stride + 1, stride))


@kernel("pool")
def _pool(call: Call) -> Step | None:
    x, out, attrs = call.array(0), call.out, call.attrs
    if not is_blas_float(x):
        return None
    axes: list[list[_Tap]] = []
    keys = ("kernel", "stride", "padding", "dilation")
    each = zip(x.shape[2:], windows(x.shape, attrs), *(attrs[k] for k in keys), strict=True)
    for size, (count, _), taps, stride, padding, dilation in each:
        found = (_tap(size, count, stride, t * dilation - padding) for t in range(taps))
        axes.append([tap for tap in found if tap is not None])
    moves = [
        (out[_PLANES + tuple(tap.results for tap in taps)], x[_PLANES + tuple(tap.elements for tap in taps)])
        for taps in product(*axes)
    ]
    largest = attrs["kind"] == "max"
    join, start = (np.maximum, -np.inf) if largest else (np.add, 0)
    counts = None if largest else divisors(x.shape, attrs).astype(out.dtype)

    def step() -> None:
        out.fill(start)
        for place, elements in moves:
            join(place, elements, out=place)
        if counts is not None:
            np.divide(out, counts, out)

    return step
