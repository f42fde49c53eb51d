"""Pooling over spatial axes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import Unsupported, converts
from .matrix import spatial_padding


@converts("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.ndim)), keepdim=True)


@converts("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    return torch.amax(x, list(range(2, x.ndim)), keepdim=True)


@converts("MaxPool")
def max_pool(
    x: Tensor,
    *,
    outputs: int,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Any = None,
    kernel_shape: Any,
    pads: Any = None,
    storage_order: int = 0,
    strides: Any = None,
) -> Tensor:
    axes = x.ndim - 2
    if outputs > 1 or axes not in (1, 2):
        raise Unsupported("its indices" if outputs > 1 else f"{axes} spatial axes")
    dilations, strides = list(dilations or [1] * axes), list(strides or [1] * axes)
    kernel = [(k - 1) * d + 1 for k, d in zip(kernel_shape, dilations, strict=True)]
    x, padding = spatial_padding(x, kernel, strides, auto_pad, pads, float("-inf"))
    function = (F.max_pool1d, F.max_pool2d)[axes - 1]
    return function(x, list(kernel_shape), strides, padding, dilations, bool(ceil_mode))


@converts("AveragePool")
def average_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Any = None,
    kernel_shape: Any,
    pads: Any = None,
    strides: Any = None,
) -> Tensor:
    axes = x.ndim - 2
    if axes not in (1, 2) or any(d != 1 for d in dilations or ()):
        raise Unsupported("dilations, or more than two spatial axes")
    strides = list(strides or [1] * axes)
    padded, padding = spatial_padding(x, list(kernel_shape), strides, auto_pad, pads)
    if padded is not x and not count_include_pad:
        raise Unsupported("uneven padding that is not counted")
    if axes == 1:
        return F.avg_pool1d(
            padded, list(kernel_shape), strides, padding, bool(ceil_mode), bool(count_include_pad)
        )
    return F.avg_pool2d(
        padded, list(kernel_shape), strides, padding, bool(ceil_mode), bool(count_include_pad)
    )
