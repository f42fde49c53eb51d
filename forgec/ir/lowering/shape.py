"""Converters of operators that move elements: views, joins, splits, padding, tensors made from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...graph import torch_dtype
from ..program import Register
from ..types import TensorType
from .builder import Const, FunctionBuilder
from .elementwise import literal
from .registry import lowers

__all__ = ["constant_pad", "permute", "slice_axis", "swapped"]


def _result(b: FunctionBuilder) -> TensorType:
    assert isinstance(b.result_type, TensorType)
    return b.result_type


@lowers(
    "aten.view.default", "aten.reshape", "aten._unsafe_view", "aten.unsqueeze", "aten.squeeze",
    "aten.flatten", "aten.unflatten", "aten.view_as", "aten.reshape_as",
)  # fmt: skip
def reshape(b: FunctionBuilder, self: Any) -> Any:
    return b.reshape(self, _result(b).shape)


def permute(b: FunctionBuilder, x: Any, perm: Sequence[int]) -> Any:
    """x with its axes permuted; itself for the identity."""
    rank = len(perm)
    perm = tuple(axis % rank for axis in perm)
    return x if perm == tuple(range(rank)) else b.emit("transpose", x, perm=perm)


@lowers("aten.permute")
def permute_dims(b: FunctionBuilder, self: Any, dims: Sequence[int]) -> Any:
    return permute(b, self, dims)


@lowers("aten.transpose", "aten.swapaxes")
def transpose(b: FunctionBuilder, self: Any, dim0: int, dim1: int) -> Any:
    return swapped(b, self, dim0, dim1)


def swapped(b: FunctionBuilder, x: Any, first: int, second: int) -> Any:
    perm = list(range(x.type.rank))
    if perm:
        perm[first], perm[second] = perm[second], perm[first]
    return permute(b, x, perm)


@lowers("aten.t", "aten.mT")
def matrix_transpose(b: FunctionBuilder, self: Any) -> Any:
    return swapped(b, self, -1, -2) if self.type.rank >= 2 else self


@lowers("aten.numpy_T")
def reversed_axes(b: FunctionBuilder, self: Any) -> Any:
    return permute(b, self, range(self.type.rank)[::-1])


@lowers("aten.movedim")
def movedim(b: FunctionBuilder, self: Any, source: Any, destination: Any) -> Any:
    sources = [source] if isinstance(source, int) else list(source)
    targets = [destination] if isinstance(destination, int) else list(destination)
    rank = self.type.rank
    perm = [-1] * rank
    for s, d in zip(sources, targets, strict=True):
        perm[d % rank] = s % rank
    rest = iter(axis for axis in range(rank) if axis not in {s % rank for s in sources})
    return permute(b, self, [next(rest) if axis < 0 else axis for axis in perm])


@lowers("aten.expand", "aten.expand_as", "aten.broadcast_to")
def expand(b: FunctionBuilder, self: Any) -> Any:
    shape = _result(b).shape
    return self if self.type.shape == shape else b.emit("expand", self, shape=shape)


def slice_axis(b: FunctionBuilder, x: Any, axis: int, start: int, stop: int, step: int = 1) -> Any:
    """Part of an axis; x itself if that is all of it."""
    axis %= x.type.rank
    if start == 0 and stop == x.type.shape[axis] and step == 1:
        return x
    return b.emit("slice", x, axis=axis, start=start, stop=stop, step=step)


def _bounds(size: int, start: int | None, end: int | None) -> tuple[int, int]:
    begin = 0 if start is None else min(max(start + size if start < 0 else start, 0), size)
    stop = size if end is None else min(max(end + size if end < 0 else end, 0), size)
    return begin, max(stop, begin)


@lowers("aten.slice")
def slice_tensor(
    b: FunctionBuilder, self: Any, dim: int, start: int | None, end: int | None, step: int
) -> Any:
    begin, stop = _bounds(self.type.shape[dim], start, end)
    return slice_axis(b, self, dim, begin, stop, step)


@lowers("aten.narrow")
def narrow(b: FunctionBuilder, self: Any, dim: int, start: int, length: int) -> Any:
    begin, stop = _bounds(self.type.shape[dim], start, None)
    return slice_axis(b, self, dim, begin, min(begin + length, stop))


@lowers("aten.select.int")
def select(b: FunctionBuilder, self: Any, dim: int, index: int) -> Any:
    size = self.type.shape[dim]
    index = index + size if index < 0 else index
    return b.reshape(slice_axis(b, self, dim, index, index + 1), _result(b).shape)


def _pieces(b: FunctionBuilder, x: Any, axis: int) -> tuple[Any, ...]:
    """Consecutive slices of the sizes that the results have."""
    assert isinstance(b.result_type, tuple)
    start, parts = 0, []
    for part in b.result_type:
        stop = start + part.shape[axis]
        parts.append(slice_axis(b, x, axis, start, stop))
        start = stop
    return tuple(parts)


@lowers("aten.split", "aten.split_with_sizes", "aten.chunk", "aten.tensor_split")
def split(b: FunctionBuilder, self: Any, dim: int) -> Any:
    return _pieces(b, self, dim)


@lowers("aten.unbind")
def unbind(b: FunctionBuilder, self: Any, dim: int) -> Any:
    assert isinstance(b.result_type, tuple)
    return tuple(
        b.reshape(slice_axis(b, self, dim, i, i + 1), part.shape) for i, part in enumerate(b.result_type)
    )


@lowers("aten.cat", "aten.concat")
def cat(b: FunctionBuilder, tensors: Sequence[Any], dim: int) -> Any:
    result = _result(b)
    parts = [b.cast(t, result.dtype) for t in tensors if not (t.type.rank == 1 and t.type.numel == 0)]
    return parts[0] if len(parts) == 1 else b.emit("concat", *parts, axis=dim % result.rank)


@lowers("aten.stack")
def stack(b: FunctionBuilder, tensors: Sequence[Any], dim: int) -> Any:
    result = _result(b)
    axis = dim % result.rank
    shape = (*result.shape[:axis], 1, *result.shape[axis + 1 :])
    return b.emit("concat", *(b.reshape(b.cast(t, result.dtype), shape) for t in tensors), axis=axis)


@lowers("aten.repeat", "aten.tile")
def repeat(b: FunctionBuilder, self: Any) -> Any:
    """Tiles: a size-1 axis before every axis, expanded, then merged."""
    result = _result(b).shape
    shape = (1,) * (len(result) - self.type.rank) + self.type.shape
    inner = [n for size in shape for n in (1, size)]
    outer = [
        n for size, total in zip(shape, result, strict=True) for n in (total // size if size else 0, size)
    ]
    tiled = b.emit("expand", b.reshape(self, inner), shape=tuple(outer))
    return b.reshape(tiled, result)


@lowers("aten.repeat_interleave.self_int")
def repeat_interleave(b: FunctionBuilder, self: Any, repeats: int, dim: int | None) -> Any:
    x = self if dim is not None else b.reshape(self, (self.type.numel,))
    axis = (dim or 0) % x.type.rank
    shape = x.type.shape
    inner = b.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    wide = b.emit("expand", inner, shape=(*shape[: axis + 1], repeats, *shape[axis + 1 :]))
    return b.reshape(wide, _result(b).shape)


@lowers("aten.roll")
def roll(b: FunctionBuilder, self: Any, shifts: Sequence[int], dims: Sequence[int]) -> Any:
    flat = not dims
    x = b.reshape(self, (self.type.numel,)) if flat else self
    for shift, axis in zip(shifts, dims or [0], strict=True):
        size = x.type.shape[axis]
        cut = -shift % size if size else 0
        if cut:
            x = b.emit(
                "concat",
                slice_axis(b, x, axis, cut, size),
                slice_axis(b, x, axis, 0, cut),
                axis=axis % x.type.rank,
            )
    return b.reshape(x, self.type.shape)


@lowers("aten.flip")
def flip(b: FunctionBuilder, self: Any, dims: Sequence[int]) -> Any:
    return b.emit("flip", self, axes=tuple(axis % self.type.rank for axis in dims))


@lowers("aten.constant_pad_nd")
def constant_pad(b: FunctionBuilder, self: Any, pad: Sequence[int], value: Any) -> Any:
    rank = self.type.rank
    sides = [(0, 0)] * rank
    for i in range(len(pad) // 2):
        sides[rank - 1 - i] = (pad[2 * i], pad[2 * i + 1])
    x = self
    for axis, (before, after) in enumerate(sides):
        size = x.type.shape[axis]
        x = slice_axis(b, x, axis, max(-before, 0), size - max(-after, 0))
    grow = [(max(before, 0), max(after, 0)) for before, after in sides]
    if not any(map(any, grow)):
        return x
    befores, afters = zip(*grow, strict=True)
    border = literal(value or 0, self.type.dtype).value
    number = int(border) if isinstance(border, bool) else border
    return b.emit("pad", x, before=befores, after=afters, value=number)


@lowers("aten.select_scatter")
def select_scatter(b: FunctionBuilder, self: Any, src: Any, dim: int, index: int) -> Any:
    axis = dim % self.type.rank
    index %= self.type.shape[axis]
    shape = (*self.type.shape[:axis], 1, *self.type.shape[axis + 1 :])
    return _replace(b, self, b.reshape(src, shape), axis, index, index + 1)


@lowers("aten.slice_scatter")
def slice_scatter(
    b: FunctionBuilder, self: Any, src: Any, dim: int, start: int | None, end: int | None, step: int
) -> Any:
    begin, stop = _bounds(self.type.shape[dim], start, end)
    if step == 1:
        return _replace(b, self, src, dim % self.type.rank, begin, stop)
    axis = dim % self.type.rank
    rows = b.tensor(torch.arange(begin, stop, step))
    perm = [axis, *(i for i in range(self.type.rank) if i != axis)]
    written = b.emit("scatter", permute(b, self, perm), permute(b, src, perm), rows)
    return permute(b, written, np.argsort(perm).tolist())


def _replace(b: FunctionBuilder, x: Any, part: Any, axis: int, start: int, stop: int) -> Any:
    """x with [start, stop) of an axis replaced."""
    part = b.cast(part, x.type.dtype)
    size = x.type.shape[axis]
    parts = [slice_axis(b, x, axis, 0, start)] if start else []
    parts.append(part)
    if stop < size:
        parts.append(slice_axis(b, x, axis, stop, size))
    return part if len(parts) == 1 else b.emit("concat", *parts, axis=axis)


@lowers("aten.fill")
def fill(b: FunctionBuilder, self: Any, value: Any) -> Any:
    dtype = self.type.dtype
    x = b.cast(value, dtype) if isinstance(value, Register | Const) else _full(b, (), value)
    return b.emit("expand", b.cast(x, dtype), shape=self.type.shape) if self.type.shape else b.cast(x, dtype)


@lowers("aten.copy")
def copy(b: FunctionBuilder, self: Any, src: Any) -> Any:
    x = b.cast(src, self.type.dtype)
    return x if x.type.shape == self.type.shape else b.emit("expand", x, shape=self.type.shape)


def _full(b: FunctionBuilder, shape: Sequence[int], value: Any) -> Any:
    """A constant of one value: a scalar, expanded."""
    dtype = _result(b).dtype
    scalar = b.tensor(torch.tensor(value, dtype=torch_dtype(dtype)))
    return b.emit("expand", scalar, shape=tuple(shape)) if shape else scalar


@lowers("aten.full", "aten.new_full", "aten.full_like")
def full(b: FunctionBuilder, fill_value: Any) -> Any:
    return _full(b, _result(b).shape, fill_value)


@lowers("aten.zeros", "aten.zeros_like", "aten.new_zeros", "aten.empty", "aten.empty_like", "aten.new_empty")
def zeros(b: FunctionBuilder) -> Any:
    return _full(b, _result(b).shape, 0)


@lowers("aten.ones", "aten.ones_like", "aten.new_ones")
def ones(b: FunctionBuilder) -> Any:
    return _full(b, _result(b).shape, 1)


@lowers("aten.scalar_tensor")
def scalar_tensor(b: FunctionBuilder, s: Any) -> Any:
    return _full(b, (), s)


@lowers("aten.arange.default")
def arange(b: FunctionBuilder, end: Any) -> Any:
    return _range(b, 0, end, 1)


@lowers("aten.arange.start")
def arange_start(b: FunctionBuilder, start: Any, end: Any) -> Any:
    return _range(b, start, end, 1)


@lowers("aten.arange.start_step")
def arange_step(b: FunctionBuilder, start: Any, end: Any, step: Any) -> Any:
    return _range(b, start, end, step)


def _range(b: FunctionBuilder, start: Any, end: Any, step: Any) -> Any:
    return b.tensor(torch.arange(start, end, step, dtype=torch_dtype(_result(b).dtype)))


def _triangle(upper: bool) -> Any:
    def convert(b: FunctionBuilder, self: Any, diagonal: int) -> Any:
        rows, columns = self.type.shape[-2:]
        keep = torch.ones(rows, columns, dtype=torch.bool)
        keep = keep.triu(diagonal) if upper else keep.tril(diagonal)
        return b.emit("where", b.tensor(keep), self, literal(0, self.type.dtype))

    return convert


lowers("aten.tril")(_triangle(upper=False))
lowers("aten.triu")(_triangle(upper=True))


@lowers("aten.diff")
def diff(b: FunctionBuilder, self: Any, n: int, dim: int, prepend: Any, append: Any) -> Any:
    parts = [x for x in (prepend, self, append) if x is not None]
    x = parts[0] if len(parts) == 1 else b.emit("concat", *parts, axis=dim % self.type.rank)
    for _ in range(n):
        size = x.type.shape[dim]
        after, before = slice_axis(b, x, dim, 1, size), slice_axis(b, x, dim, 0, size - 1)
        x = b.emit("xor" if x.type.dtype.value == "bool" else "sub", after, before)
    return x
