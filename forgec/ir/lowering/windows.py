"""Converters of sliding windows, and of padding by what the tensor has itself: movement of slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...errors import UnsupportedOpError
from ..types import TensorType
from .builder import FunctionBuilder
from .registry import lowers
from .shape import constant_pad, permute, slice_axis

_Border = Callable[[FunctionBuilder, Any, int, int, bool], Any]
"""So many elements beside an axis of x, before or after it."""


def _reflected(b: FunctionBuilder, x: Any, axis: int, count: int, before: bool) -> Any:
    start = 1 if before else x.type.shape[axis] - 1 - count
    return b.emit("flip", slice_axis(b, x, axis, start, start + count), axes=(axis,))


def _replicated(b: FunctionBuilder, x: Any, axis: int, count: int, before: bool) -> Any:
    start = 0 if before else x.type.shape[axis] - 1
    end = slice_axis(b, x, axis, start, start + 1)
    shape = (*x.type.shape[:axis], count, *x.type.shape[axis + 1 :])
    return b.emit("expand", end, shape=shape)


def _wrapped(b: FunctionBuilder, x: Any, axis: int, count: int, before: bool) -> Any:
    start = x.type.shape[axis] - count if before else 0
    return slice_axis(b, x, axis, start, start + count)


_BORDERS: dict[str, _Border] = {"reflect": _reflected, "replicate": _replicated, "circular": _wrapped}


@lowers("aten.pad")
def pad(b: FunctionBuilder, self: Any, pad: Sequence[int], mode: str, value: Any) -> Any:
    if mode == "constant":
        return constant_pad(b, self, pad, value)
    if mode not in _BORDERS:
        raise UnsupportedOpError(
            f"padding mode {mode!r} has no lowering", hint=f"use one of {', '.join(_BORDERS)}, constant"
        )
    return _bordered(b, self, pad, _BORDERS[mode])


def _bordered(b: FunctionBuilder, x: Any, pad: Sequence[int], border: _Border) -> Any:
    """Padding of the last axes, those of the last first; less than zero elements are left out."""
    for index in range(len(pad) // 2):
        before, after = pad[2 * index : 2 * index + 2]
        axis = x.type.rank - 1 - index
        parts = [slice_axis(b, x, axis, max(-before, 0), x.type.shape[axis] - max(-after, 0))]
        if before > 0:
            parts.insert(0, border(b, x, axis, before, True))
        if after > 0:
            parts.append(border(b, x, axis, after, False))
        x = parts[0] if len(parts) == 1 else b.emit("concat", *parts, axis=axis)
    return x


def _register(name: str, mode: str) -> None:
    @lowers(name)
    def padded(b: FunctionBuilder, self: Any, padding: Sequence[int]) -> Any:
        return _bordered(b, self, padding, _BORDERS[mode])


for _spatial in (1, 2, 3):
    _register(f"aten.reflection_pad{_spatial}d", "reflect")
    _register(f"aten.replication_pad{_spatial}d", "replicate")


@lowers("aten.unfold")
def unfold(b: FunctionBuilder, self: Any, dimension: int, size: int, step: int) -> Any:
    """Windows along an axis, their elements along a new last one. Windows side by side are views."""
    assert isinstance(b.result_type, TensorType)
    if not self.type.rank:
        return b.reshape(self, b.result_type.shape)
    axis = dimension % self.type.rank
    before, after = self.type.shape[:axis], self.type.shape[axis + 1 :]
    count = b.result_type.shape[axis]
    if step == size:
        whole = slice_axis(b, self, axis, 0, count * size)
        windows = b.reshape(whole, (*before, count, size, *after))
    else:
        places = torch.arange(count)[:, None] * step + torch.arange(size)
        windows = b.emit("gather", self, b.tensor(places), axis=axis)
    rank = self.type.rank + 1
    return permute(b, windows, [*(i for i in range(rank) if i != axis + 1), axis + 1])
