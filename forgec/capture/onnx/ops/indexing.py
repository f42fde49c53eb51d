"""Gathers and scatters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..registry import Array, Number, Unsupported, converts


def from_table(inputs: list[Any], attributes: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Whether a stored table is looked up by ids, which count from its start only."""
    x, indices = inputs
    stored = isinstance(indices, np.ndarray)
    attributes["table"] = int(isinstance(x, np.ndarray) and not (stored and (indices < 0).any()))
    return inputs, attributes


@converts("Gather", prepare=from_table)
def gather(x: Tensor, indices: Tensor, *, axis: int = 0, table: int = 0) -> Tensor:
    axis %= x.ndim
    if table and axis == 0 and x.ndim == 2 and x.is_floating_point():
        return torch.nn.functional.embedding(indices, x)
    places = (slice(None),) * axis + (indices.reshape(indices.shape or (1,)).long(),)
    return x[places] if indices.ndim else x[places].squeeze(axis)


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


_COMBINED = {"max": torch.maximum, "min": torch.minimum, "mul": torch.mul}


def _with_places(inputs: list[Any], attributes: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Constant indices also as an attribute, where a place that is written twice must be known."""
    if attributes.get("reduction") in _COMBINED:
        attributes["places"] = inputs[1] if isinstance(inputs[1], np.ndarray) else None
    return inputs, attributes


@converts("ScatterND", prepare=_with_places)
def scatter_nd(
    x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none", places: Any = None
) -> Tensor:
    if reduction in _COMBINED:
        return _combined(x, places, updates, reduction)
    if reduction not in ("none", "add"):
        raise Unsupported(f"reduction {reduction}")
    return torch.index_put(x, tuple(indices.long().unbind(-1)), updates, accumulate=reduction == "add")


def _combined(x: Tensor, places: np.ndarray | None, updates: Tensor, reduction: str) -> Tensor:
    """Updates in turns, in each of which no place comes twice."""
    if places is None:
        raise Unsupported(f"reduction {reduction} at indices that are no constants")
    rows = places.reshape(-1, places.shape[-1])
    rows = np.where(rows < 0, rows + np.asarray(x.shape[: rows.shape[1]]), rows)
    updates = updates.reshape(len(rows), *x.shape[rows.shape[1] :])
    counts: dict[tuple[int, ...], int] = {}
    turns: list[list[int]] = []
    for number, row in enumerate(map(tuple, rows.tolist())):
        turn = counts[row] = counts.get(row, -1) + 1
        turns += [[] for _ in range(turn + 1 - len(turns))]
        turns[turn].append(number)
    for turn_rows in turns:
        at = tuple(torch.from_numpy(np.ascontiguousarray(column)) for column in rows[turn_rows].T)
        now = updates if len(turns) == 1 else updates[torch.tensor(turn_rows)]
        x = torch.index_put(x, at, _COMBINED[reduction](x[at], now))
    return x


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
