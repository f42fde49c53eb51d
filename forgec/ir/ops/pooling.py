"""Pooling: the largest element or the average of windows over the last one or two axes.

Windows are counted as PyTorch counts them, rounded up or not, so that one record has the shapes and the
divisors of all its pooling operators. :func:`windows` and :func:`divisors` say where windows lie and how many
elements each of them averages, for the reference, the kernels and the emitters alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from ..op import Sample, op
from ..types import TensorType
from .rules import require, require_float

__all__ = ["Windows", "divisors", "windows"]

Array = np.ndarray
Sizes = tuple[int, ...]


class Windows(NamedTuple):
    """The windows of one axis: how many, and how far the last one reaches over the end of the input."""

    total: int
    after: int


def windows(shape: Sizes, attrs: Mapping[str, Any]) -> list[Windows]:
    """The windows of each spatial axis of an input of this shape, under all the attributes of ``pool``.

    Tap t of window i is at ``i * stride + t * dilation - padding``. Windows start inside the input or the
    padding before it. Those rounded up may reach over the padding after it.
    """
    keys = ("kernel", "stride", "padding", "dilation")
    found = []
    for size, kernel, stride, padding, dilation in zip(shape[2:], *(attrs[k] for k in keys), strict=True):
        extent = dilation * (kernel - 1) + 1
        room = size + 2 * padding - extent
        count = (-(-room // stride) if attrs["ceil"] else room // stride) + 1
        if attrs["ceil"] and (count - 1) * stride >= size + padding:
            count -= 1
        found.append(Windows(count, max(0, (count - 1) * stride + extent - size - padding)))
    return found


def divisors(shape: Sizes, attrs: Mapping[str, Any]) -> Array:
    """How many elements each window averages, int64 over the spatial axes of the result.

    With ``include_padding`` those in the padding count; what lies behind the padding never does.
    """
    counts = []
    keys = ("kernel", "stride", "padding")
    each = zip(shape[2:], windows(shape, attrs), *(attrs[k] for k in keys), strict=True)
    for size, (count, _), kernel, stride, padding in each:
        border = padding if attrs["include_padding"] else 0
        first = np.arange(count) * stride - padding
        counts.append(np.minimum(first + kernel, size + border) - np.maximum(first, -border))
    return reduce(np.multiply.outer, counts)


def _pool_rule(
    x: TensorType | None,
    *,
    kind: str,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    ceil: bool,
    include_padding: bool,
) -> TensorType:
    t = require_float(x, "x")
    spatial = t.rank - 2
    require(kind in ("max", "average"), f"unknown kind of pooling {kind!r}: it is max or average")
    require(spatial in (1, 2), f"pool takes x of rank 3 or 4, not {t}")
    require(
        len(kernel) == len(stride) == len(padding) == len(dilation) == spatial,
        f"pool of {t} needs {spatial} kernel sizes, strides, paddings and dilations",
    )
    require(min(*kernel, *stride, *dilation) >= 1, "kernel sizes, strides and dilations must be at least 1")
    require(min(t.shape[2:]) >= 1, f"a spatial axis of {t} has no element")
    require(kind == "max" or max(dilation) == 1, "the windows of an average have no dilation")
    require(kind == "average" or not include_padding, "only an average can include the padding")
    for k, p, d in zip(kernel, padding, dilation, strict=True):
        extent = d * (k - 1) + 1
        require(
            0 <= 2 * p <= extent, f"padding {p} is negative or over half of what a window covers, {extent}"
        )
    attrs = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "ceil": ceil}
    counts = tuple(found.total for found in windows(t.shape, attrs))
    require(
        min(counts) >= 1, f"a window of {list(kernel)} does not fit into {t} with padding {list(padding)}"
    )
    return TensorType(t.dtype, (*t.shape[:2], *counts))


def _pool_flops(
    types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]
) -> float:
    return float(results[0].numel * math.prod(attrs["kernel"]))


def _samples(rng: np.random.Generator) -> list[Sample]:
    def x(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    plain = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1)}
    wide = {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}
    over = {"kernel": (3, 2), "stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "ceil": True}
    return [
        Sample((x(2, 3, 9),), {"kernel": (3,), "stride": (2,), "padding": (1,)}),
        Sample((x(1, 3, 8, 7),), wide),
        Sample((x(2, 2, 7, 6),), {**plain, "ceil": True}),
        Sample(
            (x(2, 3, 10),), {"kind": "average", "kernel": (4,), "stride": (3,), "padding": (2,), "ceil": True}
        ),
        Sample((x(1, 3, 8, 6),), {**plain, "kind": "average"}),
        Sample((x(1, 3, 8, 7),), {**wide, "kind": "average", "dilation": (1, 1), "include_padding": True}),
        Sample((x(1, 4, 8, 9),), {**over, "kind": "average", "include_padding": True}),
    ]


@op(
    "pool",
    "x",
    rule=_pool_rule,
    attrs={
        "kind": "max",
        "kernel": (1,),
        "stride": (1,),
        "padding": (0,),
        "dilation": (1,),
        "ceil": False,
        "include_padding": False,
    },
    flops=_pool_flops,
    samples=_samples,
)
def pool(x: Array, **attrs: Any) -> Array:
    """1-d or 2-d pooling of x [batch, channels, ...], kind max or average, with equal padding a side.

    Padding is below everything for a maximum, in which a nan wins, and zero for an average, which divides by
    the elements in the input or, with ``include_padding``, in the padding too. ``ceil`` rounds the number of
    windows up.
    """
    kernel, dilation = attrs["kernel"], attrs["dilation"]
    largest = attrs["kind"] == "max"
    along = windows(x.shape, attrs)
    widths = [(p, found.after) for p, found in zip(attrs["padding"], along, strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *widths], constant_values=-np.inf if largest else 0)
    extent = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    every = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=tuple(range(2, x.ndim)))
    # every: [batch, channel, *positions, *extent] -> strided positions, dilated taps
    index = (*(slice(None, None, s) for s in attrs["stride"]), *(slice(None, None, d) for d in dilation))
    taps = every[(slice(None), slice(None), *index)]
    inner = tuple(range(x.ndim, taps.ndim))
    if largest:
        return np.ascontiguousarray(taps.max(axis=inner))
    return np.ascontiguousarray(taps.sum(axis=inner) / divisors(x.shape, attrs).astype(x.dtype))
