"""Resizing: an axis is one look-up of constant indices (nearest), or one product with a constant matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ....interpolation import aligned, centres, nearest_rows, weights
from ..registry import Array, Ints, Unsupported, converts


@dataclass(frozen=True)
class _Form:
    """The attributes that say how an axis is resized."""

    mode: str
    coordinates: str
    nearest: str = "floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation: float = 0.0


def _sources(n: int, size: int, scale: float, roi: tuple[float, float], form: _Form) -> np.ndarray:
    """Where the ``size`` results lie among ``n`` elements, as [size] coordinates."""
    width = scale * n
    match form.coordinates:
        case "asymmetric":
            return np.arange(size) / scale
        case "half_pixel":
            return centres(size, scale)
        case "pytorch_half_pixel":
            return centres(size, scale) if width > 1 else np.full(size, -0.5)
        case "half_pixel_symmetric":
            return n / 2 * (1 - size / width) + centres(size, scale)
        case "align_corners":
            return aligned(n, size, width)
        case "tf_crop_and_resize":
            first, last = roi
            if size == 1:
                return np.full(1, (first + last) * (n - 1) / 2)
            return first * (n - 1) + (last - first) * aligned(n, size)
    raise Unsupported(f"coordinates {form.coordinates}")


def _nearest(at: np.ndarray, rounding: str) -> np.ndarray:
    match rounding:
        case "floor":
            return np.floor(at)
        case "ceil":
            return np.ceil(at)
        case "round_prefer_floor":
            return np.ceil(at - 0.5)
        case "round_prefer_ceil":
            return np.floor(at + 0.5)
    raise Unsupported(f"rounding {rounding}")


def _along(x: Tensor, axis: int, size: int, scale: float, roi: tuple[float, float], form: _Form) -> Tensor:
    n = x.shape[axis]
    at = _sources(n, size, scale, roi, form)
    if form.mode == "nearest":
        indices = nearest_rows(n, _nearest(at, form.nearest))
        y = x if np.array_equal(indices, np.arange(n)) else x.index_select(axis, torch.from_numpy(indices))
    else:
        if form.mode not in ("linear", "cubic"):
            raise Unsupported(f"mode {form.mode}")
        shrink = min(scale, 1.0) if form.antialias else 1.0
        matrix = weights(n, at, form.mode, cubic=form.cubic, shrink=shrink, outside=not form.exclude_outside)
        if matrix.shape[0] == n and np.array_equal(matrix, np.eye(n)):
            y = x
        elif not x.is_floating_point():
            raise Unsupported(f"interpolating {x.dtype}")
        else:
            y = F.linear(x.movedim(axis, -1), torch.from_numpy(matrix).to(x.dtype)).movedim(-1, axis)
    if form.coordinates == "tf_crop_and_resize":
        outside = torch.from_numpy((at < 0) | (at > n - 1)).reshape([-1] + [1] * (x.ndim - 1 - axis))
        y = torch.where(outside, torch.full((), form.extrapolation, dtype=x.dtype), y)
    return y


def _resized(
    x: Tensor,
    axes: Sequence[int],
    scales: Sequence[float],
    sizes: Sequence[int],
    rois: Sequence[tuple[float, float]],
    form: _Form,
) -> Tensor:
    for axis, scale, size, roi in zip(axes, scales, sizes, rois, strict=True):
        x = _along(x, axis, size, scale, roi, form)
    return x


def _of_scales(shape: Sequence[int], scales: Sequence[float]) -> list[int]:
    return [int(np.floor(n * scale)) for n, scale in zip(shape, scales, strict=True)]


@converts("Resize", since=11)
def resize(
    x: Tensor,
    roi: Array | None = None,
    scales: Array | None = None,
    sizes: Ints | None = None,
    *,
    antialias: int = 0,
    axes: Any = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    chosen = [axis % x.ndim for axis in (range(x.ndim) if axes is None else axes)]
    shape = [x.shape[axis] for axis in chosen]
    if sizes:
        factors = [size / n for size, n in zip(sizes, shape, strict=True)]
        wanted = list(sizes)
        if keep_aspect_ratio_policy != "stretch":
            factor = (min if keep_aspect_ratio_policy == "not_larger" else max)(factors)
            factors, wanted = [factor] * len(shape), [int(factor * n + 0.5) for n in shape]
    elif scales is not None and scales.size:
        factors = [float(s) for s in scales]
        wanted = _of_scales(shape, factors)
    else:
        raise Unsupported("neither scales nor sizes")
    count = len(chosen)
    corners = [0.0] * count + [1.0] * count if roi is None or not roi.size else [float(r) for r in roi]
    form = _Form(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        cubic_coeff_a,
        bool(exclude_outside),
        bool(antialias),
        extrapolation_value,
    )
    rois = list(zip(corners[:count], corners[count:], strict=True))
    return _resized(x, chosen, factors, wanted, rois, form)


def _by_scales(x: Tensor, scales: Sequence[float], mode: str) -> Tensor:
    """How the operator was before opset 11: coordinates divided by the scales."""
    form = _Form({"bilinear": "linear"}.get(mode, mode), "asymmetric")
    whole = [(0.0, 1.0)] * x.ndim
    return _resized(x, range(x.ndim), scales, _of_scales(x.shape, scales), whole, form)


@converts("Resize", since=10)
@converts("Upsample", since=9)
def old_resize(x: Tensor, scales: Array, *, mode: str = "nearest") -> Tensor:
    return _by_scales(x, [float(s) for s in scales], mode)


@converts("Upsample", since=7)
def old_upsample(x: Tensor, *, scales: Any, mode: str = "nearest") -> Tensor:
    return _by_scales(x, scales, mode)
