"""Converters of operators that change how many elements an axis has: interpolation, transposed convolutions.

Interpolation is a look-up of constant indices, or a product with a constant matrix, an axis at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...interpolation import aligned, centres, nearest_rows, weights
from ..types import TensorType
from .builder import FunctionBuilder
from .registry import lowers
from .shape import constant_pad, permute, slice_axis

__all__ = ["transposed_convolution"]

_Along = Callable[[FunctionBuilder, Any, int, int, float], Any]
"""Gives x with an axis of another size, for a scale."""


def _linear(mode: str, corners: bool) -> _Along:
    def along(b: FunctionBuilder, x: Any, axis: int, size: int, scale: float) -> Any:
        n = x.type.shape[axis]
        at = aligned(n, size) if corners else centres(size, scale)
        matrix = weights(n, at, mode)
        if np.array_equal(matrix, np.eye(n)):
            return x
        rank = x.type.rank
        order = [*(i for i in range(rank) if i != axis), axis]
        weight = b.cast(b.tensor(torch.from_numpy(matrix).float()), x.type.dtype)
        y = b.emit("linear", permute(b, x, order), weight, None, None)
        return permute(b, y, np.argsort(order).tolist())

    return along


def _nearest(centred: bool) -> _Along:
    def along(b: FunctionBuilder, x: Any, axis: int, size: int, scale: float) -> Any:
        n, step = x.type.shape[axis], np.float32(1 / scale)
        at = np.floor((np.arange(size, dtype=np.float32) + np.float32(0.5 * centred)) * step)
        rows = nearest_rows(n, at)
        if np.array_equal(rows, np.arange(n)):
            return x
        return b.emit("gather", x, b.tensor(torch.from_numpy(rows)), axis=axis)

    return along


def _resized(b: FunctionBuilder, x: Any, scales: Sequence[float | None], along: _Along) -> Any:
    assert isinstance(b.result_type, TensorType)
    for axis, size in enumerate(b.result_type.shape):
        if axis > 1:
            scale = scales[axis - 2] if scales else None
            x = along(b, x, axis, size, scale or size / x.type.shape[axis])
    return x


def _register(spatial: int) -> None:
    """The operators over so many axes, by a list of factors (``vec``) or by a size with factors behind it."""

    def interpolation(name: str, along: Callable[[bool], _Along]) -> None:
        @lowers(f"aten.{name}.vec")
        def by_list(b: FunctionBuilder, input: Any, scale_factors: Any, align_corners: bool) -> Any:
            return _resized(b, input, scale_factors or (), along(align_corners))

    def selection(name: str, along: _Along) -> None:
        @lowers(f"aten.{name}.vec")
        def by_list(b: FunctionBuilder, input: Any, scale_factors: Any) -> Any:
            return _resized(b, input, scale_factors or (), along)

    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[spatial]
    interpolation(f"upsample_{linear}{spatial}d", lambda corners: _linear("linear", corners))
    if spatial == 2:
        interpolation("upsample_bicubic2d", lambda corners: _linear("cubic", corners))
    selection(f"upsample_nearest{spatial}d", _nearest(centred=False))
    selection(f"_upsample_nearest_exact{spatial}d", _nearest(centred=True))


for _spatial in (1, 2, 3):
    _register(_spatial)


def transposed_convolution(
    b: FunctionBuilder,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    """Every element spreads over as many results as the kernel has: patches side by side are one product, and
    overlapping ones a convolution of the elements with zeros between them."""
    kernel = weight.type.shape[2:]
    plain = not any(padding) and not any(output_padding) and groups == 1
    if plain and tuple(stride) == kernel and all(d == 1 for d in dilation):
        y = _patches(b, x, weight)
    else:
        y = _spread(b, x, weight, stride, padding, dilation, output_padding, groups)
    if bias is None:
        return y
    return b.emit("add", y, b.reshape(bias, (y.type.shape[1], *(1,) * len(kernel))))


def _patches(b: FunctionBuilder, x: Any, weight: Any) -> Any:
    channels, outputs, *kernel = weight.type.shape
    batch, _, *sizes = x.type.shape
    count = len(kernel)
    rows = permute(b, x, [0, *range(2, 2 + count), 1])
    matrix = permute(b, b.reshape(weight, (channels, weight.type.numel // channels)), (1, 0))
    y = b.reshape(b.emit("linear", rows, matrix, None, None), (batch, *sizes, outputs, *kernel))
    order = [0, count + 1, *(axis for i in range(count) for axis in (1 + i, count + 2 + i))]
    shape = (batch, outputs, *(n * k for n, k in zip(sizes, kernel, strict=True)))
    return b.reshape(permute(b, y, order), shape)


def _spread(
    b: FunctionBuilder,
    x: Any,
    weight: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    channels, outputs, *kernel = weight.type.shape
    count = len(kernel)
    for axis, step in enumerate(stride, 2):
        if step > 1:
            shape = x.type.shape
            wide = b.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
            zeros = [0, 0] * (x.type.rank - 1 - axis) + [0, step - 1]
            wide = b.reshape(
                constant_pad(b, wide, zeros, 0), (*shape[:axis], shape[axis] * step, *shape[axis + 1 :])
            )
            x = slice_axis(b, wide, axis, 0, (shape[axis] - 1) * step + 1)
    sides: list[int] = []
    for k, d, p, more in zip(kernel, dilation, padding, output_padding, strict=True):
        sides[:0] = [d * (k - 1) - p, d * (k - 1) - p + more]
    grouped = b.reshape(weight, (groups, channels // groups, outputs, *kernel))
    turned = permute(b, grouped, [0, 2, 1, *range(3, 3 + count)])
    turned = b.reshape(turned, (groups * outputs, channels // groups, *kernel))
    turned = b.emit("flip", turned, axes=tuple(range(2, 2 + count)))
    ones = (1,) * count
    return b.emit(
        "conv",
        constant_pad(b, x, sides, 0),
        turned,
        None,
        stride=ones,
        padding=(0,) * count,
        dilation=tuple(dilation),
        groups=groups,
    )
