"""Converters of look-ups and scatters by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...errors import UnsupportedOpError
from ...graph import torch_dtype
from ..program import Literal
from ..types import DType, TensorType
from .builder import FunctionBuilder
from .registry import lowers
from .shape import permute, slice_axis


@lowers("aten.embedding")
def embedding(b: FunctionBuilder, weight: Any, indices: Any) -> Any:
    return b.emit("embedding", weight, indices)


@lowers("aten.index_select")
def index_select(b: FunctionBuilder, self: Any, dim: int, index: Any) -> Any:
    return b.emit("gather", self, _wrapped(b, index, self.type.shape[dim]), axis=dim % self.type.rank)


@lowers("aten.gather")
def gather(b: FunctionBuilder, self: Any, dim: int, index: Any) -> Any:
    return b.emit("take_along", self, index, axis=dim % self.type.rank)


@lowers("aten.index", "aten._unsafe_index")
def index(b: FunctionBuilder, self: Any, indices: Sequence[Any]) -> Any:
    """Index tensors on consecutive axes; others are moved to the front first, as torch does."""
    given = [axis for axis, i in enumerate(indices) if i is not None]
    _refuse_masks([indices[axis] for axis in given])
    consecutive = given == list(range(given[0], given[-1] + 1))
    if consecutive:
        wrapped = [_wrapped(b, indices[axis], self.type.shape[axis]) for axis in given]
        return b.emit("gather", self, *wrapped, axis=given[0])
    perm = [*given, *(axis for axis in range(self.type.rank) if axis not in given)]
    moved = permute(b, self, perm)
    return b.emit(
        "gather", moved, *(_wrapped(b, indices[axis], self.type.shape[axis]) for axis in given), axis=0
    )


@lowers("aten.masked_scatter")
def masked_scatter(b: FunctionBuilder, self: Any, mask: Any, source: Any) -> Any:
    """Places that the mask shows take what the source has, in order."""
    assert isinstance(b.result_type, TensorType)
    shape = b.result_type.shape
    count, given = b.result_type.numel, source.type.numel
    if not count or not given:
        raise UnsupportedOpError("masked_scatter of nothing has no lowering")

    def flat(x: Any) -> Any:
        wide = x if x.type.shape == shape else b.emit("expand", x, shape=shape)
        return b.reshape(wide, (count,))

    shown = flat(mask)
    number = b.emit("sub", b.emit("cumsum", b.cast(shown, DType.I64), axis=0), Literal(1))
    places = b.emit("maximum", number, Literal(0))
    taken = b.emit("gather", b.reshape(source, (given,)), places, axis=0)
    return b.reshape(b.emit("where", shown, taken, flat(self)), shape)


def _refuse_masks(indices: Sequence[Any]) -> None:
    if any(i.type.dtype in (DType.BOOL, DType.U8) for i in indices):
        raise UnsupportedOpError(
            "indexing by a boolean mask gives a shape that depends on the data",
            hint="use torch.where(mask, x, fill), which keeps the shape static",
        )


def _wrapped(b: FunctionBuilder, index: Any, size: int) -> Any:
    """An index in [-size, size) as one in [0, size)."""
    if index.type.dtype not in (DType.I64, DType.I32):
        index = b.cast(index, DType.I64)
    negative = b.emit("lt", index, Literal(0))
    return b.emit("where", negative, b.emit("add", index, Literal(size)), index)


@lowers("aten.index_put", "aten.index_put_", "aten._unsafe_index_put")
def index_put(b: FunctionBuilder, self: Any, indices: Sequence[Any], values: Any, accumulate: bool) -> Any:
    given = [axis for axis, i in enumerate(indices) if i is not None]
    tensors = [indices[axis] for axis in given]
    if len(tensors) == 1 and tensors[0].type.dtype is DType.BOOL and values.type.rank == 0 and not accumulate:
        mask = tensors[0]
        shape = (*mask.type.shape, *(1,) * (self.type.rank - mask.type.rank))
        return b.emit("where", b.reshape(mask, shape), b.cast(values, self.type.dtype), self)
    _refuse_masks(tensors)
    perm = [*given, *(axis for axis in range(self.type.rank) if axis not in given)]
    wrapped = [_wrapped(b, indices[axis], self.type.shape[axis]) for axis in given]
    if given == list(range(len(given))):
        return b.emit("scatter", self, b.cast(values, self.type.dtype), *wrapped, accumulate=accumulate)
    lead = np.broadcast_shapes(*(i.type.shape for i in wrapped))
    consecutive = given == list(range(given[0], given[-1] + 1))
    updates = b.cast(values, self.type.dtype)
    if consecutive and given[0] > 0:
        before, count = given[0], len(lead)
        full = (*self.type.shape[:before], *lead, *self.type.shape[given[-1] + 1 :])
        updates = updates if updates.type.shape == full else b.emit("expand", updates, shape=full)
        rank = len(full)
        updates = permute(
            b, updates, [*range(before, before + count), *range(before), *range(before + count, rank)]
        )
    written = b.emit("scatter", permute(b, self, perm), updates, *wrapped, accumulate=accumulate)
    return permute(b, written, np.argsort(perm).tolist())


@lowers("aten.scatter.src")
def scatter_along(b: FunctionBuilder, self: Any, dim: int, index: Any, src: Any) -> Any:
    """The element of src at a place goes where the index there says along one axis."""
    return _along(b, self, dim, index, src, accumulate=False)


@lowers("aten.scatter_add")
def scatter_add(b: FunctionBuilder, self: Any, dim: int, index: Any, src: Any) -> Any:
    return _along(b, self, dim, index, src, accumulate=True)


@lowers("aten.scatter.value")
def scatter_value(b: FunctionBuilder, self: Any, dim: int, index: Any, value: Any) -> Any:
    filled = b.tensor(torch.tensor(value, dtype=torch_dtype(self.type.dtype)))
    return _along(b, self, dim, index, filled, accumulate=False)


def _along(b: FunctionBuilder, x: Any, dim: int, index: Any, updates: Any, *, accumulate: bool) -> Any:
    rank = x.type.rank
    if updates.type.rank:
        for axis, size in enumerate(index.type.shape):
            updates = slice_axis(b, updates, axis, 0, size)
    places = [
        index if axis == dim % rank else b.tensor(torch.arange(n).reshape([-1] + [1] * (rank - 1 - axis)))
        for axis, n in enumerate(index.type.shape)
    ]
    return b.emit("scatter", x, updates, *places, accumulate=accumulate)


@lowers("aten.index_copy")
def index_copy(b: FunctionBuilder, self: Any, dim: int, index: Any, source: Any) -> Any:
    axis = dim % self.type.rank
    perm = [axis, *(i for i in range(self.type.rank) if i != axis)]
    rows = _wrapped(b, index, self.type.shape[axis])
    written = b.emit("scatter", permute(b, self, perm), permute(b, source, perm), rows)
    return permute(b, written, np.argsort(perm).tolist())


@lowers("forgec.update_rows.default")
def update_rows(b: FunctionBuilder, cache: Any, new: Any, position: Any) -> Any:
    return b.emit("update_rows", cache, new, position)


@lowers("aten.one_hot")
def one_hot(b: FunctionBuilder, self: Any) -> Any:
    assert isinstance(b.result_type, TensorType)
    classes = b.tensor(torch.arange(b.result_type.shape[-1]))
    hits = b.emit("eq", b.reshape(self, (*self.type.shape, 1)), classes)
    return b.cast(hits, DType.I64)
