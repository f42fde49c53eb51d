"""Gathers and scatters."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..registry import Array, Number, Unsupported, converts


@converts("Gather")
def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis %= x.ndim
    if axis == 0 and x.ndim == 2 and x.is_floating_point():
        return torch.nn.functional.embedding(indices, x)
    if indices.ndim == 0 and indices.dtype in (torch.int64, torch.int32):
        return x.index_select(axis, indices.reshape(1)).squeeze(axis)
    return x[(slice(None),) * axis + (indices.long(),)]


@converts("GatherElements")
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    indices = indices.long()
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices))


@converts("GatherND")
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    indices = indices.long()
    leading = []
    for axis in range(batch_dims):
        view = [1] * (indices.ndim - 1)
        view[axis] = x.shape[axis]
        leading.append(torch.arange(x.shape[axis]).reshape(view))
    return x[(*leading, *indices.unbind(-1))]


@converts("ScatterND")
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    if reduction not in ("none", "add"):
        raise Unsupported(f"reduction {reduction}")
    places = tuple(indices.long().unbind(-1))
    return torch.index_put(x, places, updates, accumulate=reduction == "add")


@converts("ScatterElements", "Scatter")
def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    if reduction not in ("none", "add"):
        raise Unsupported(f"reduction {reduction}")
    indices = indices.long()
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    function = torch.scatter_add if reduction == "add" else torch.scatter
    return function(x, axis, indices, updates)


@converts("OneHot")
def one_hot(indices: Tensor, depth: Number, values: Tensor, *, axis: int = -1) -> Tensor:
    size, indices = int(depth), indices.long()
    indices = torch.where(indices < 0, indices + size, indices)
    axis = axis % (indices.ndim + 1)
    view = [1] * (indices.ndim + 1)
    view[axis] = size
    hot = indices.unsqueeze(axis) == torch.arange(size).reshape(view)
    return torch.where(hot, values[1], values[0])


@converts("NonZero")
def non_zero(x: Array) -> Array:
    return np.stack(np.nonzero(np.atleast_1d(x))).astype(np.int64)
