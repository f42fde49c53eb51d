"""Look-ups and scatters by index."""

from __future__ import annotations

import numpy as np

from ..op import Sample, op
from ..types import DType, TensorType
from .rules import broadcast_shapes, normalise_axis, require, tensor

Array = np.ndarray


def _no_flops(*_: object) -> float:
    return 0.0


def _index_type(x: TensorType | None) -> TensorType:
    t = tensor(x, "index")
    require(t.dtype in (DType.I64, DType.I32), f"an index must be i64 or i32, not {t}")
    return t


def _embedding_rule(table: TensorType | None, ids: TensorType | None) -> TensorType:
    t, index = tensor(table, "table"), _index_type(ids)
    require(t.rank == 2, f"table must have rank 2, not {t}")
    return TensorType(t.dtype, (*index.shape, t.shape[1]))


@op(
    "embedding",
    "table ids",
    rule=_embedding_rule,
    flops=_no_flops,
    samples=lambda rng: [
        Sample((rng.standard_normal((9, 4)).astype(np.float32), rng.integers(0, 9, (2, 3))), {}),
        Sample((rng.standard_normal((9, 4)).astype(np.float32), np.array(8)), {}),
    ],
)
def embedding(table: Array, ids: Array) -> Array:
    """Rows of a table by id; an id out of range is an error (IndexError)."""
    if ids.size and (ids.min() < 0 or ids.max() >= table.shape[0]):
        raise IndexError(
            f"id {ids.min() if ids.min() < 0 else ids.max()} is outside a table of {table.shape[0]} rows"
        )
    return table[ids]


def _take_along_rule(x: TensorType | None, index: TensorType | None, *, axis: int) -> TensorType:
    t, i = tensor(x), _index_type(index)
    require(t.rank == i.rank, f"index {i} must have the rank of {t}")
    axis = normalise_axis(axis, t.rank)
    fits = all(n <= m for a, (n, m) in enumerate(zip(i.shape, t.shape, strict=True)) if a != axis)
    require(fits, f"index {i} is larger than {t} beside axis {axis}")
    return TensorType(t.dtype, i.shape)


@op(
    "take_along",
    "x index",
    rule=_take_along_rule,
    attrs={"axis": 0},
    flops=_no_flops,
    samples=lambda rng: [
        Sample((rng.standard_normal((3, 5)).astype(np.float32), rng.integers(0, 5, (3, 2))), {"axis": 1})
    ],
)
def take_along(x: Array, index: Array, *, axis: int) -> Array:
    """result[.., i, ..] = x[.., index[.., i, ..], ..] on one axis (aten.gather)."""
    axis %= x.ndim
    trimmed = x[tuple(slice(None) if a == axis else slice(n) for a, n in enumerate(index.shape))]
    return np.take_along_axis(trimmed, index, axis=axis)


def _gather_rule(x: TensorType | None, *indices: TensorType | None, axis: int) -> TensorType:
    t = tensor(x)
    axis = normalise_axis(axis, t.rank)
    require(
        len(indices) >= 1 and axis + len(indices) <= t.rank, f"{len(indices)} indices are too many for {t}"
    )
    shape = broadcast_shapes(*(_index_type(i).shape for i in indices))
    return TensorType(t.dtype, (*t.shape[:axis], *shape, *t.shape[axis + len(indices) :]))


@op(
    "gather",
    "x *indices",
    rule=_gather_rule,
    attrs={"axis": 0},
    flops=_no_flops,
    samples=lambda rng: [
        Sample(
            (
                rng.standard_normal((3, 5, 4)).astype(np.float32),
                rng.integers(0, 3, (2, 1)),
                rng.integers(0, 5, (2,)),
            ),
            {},
        ),
        Sample((rng.standard_normal((3, 5, 4)).astype(np.float32), rng.integers(0, 5, (6,))), {"axis": 1}),
    ],
)
def gather(x: Array, *indices: Array, axis: int) -> Array:
    """x indexed by broadcast index tensors on consecutive axes from ``axis`` on (aten.index)."""
    return x[(slice(None),) * (axis % x.ndim) + tuple(indices)]


def _scatter_rule(
    x: TensorType | None, updates: TensorType | None, *indices: TensorType | None, accumulate: bool
) -> TensorType:
    t, u = tensor(x), tensor(updates, "updates")
    require(1 <= len(indices) <= t.rank, f"{len(indices)} indices are too many for {t}")
    shape = broadcast_shapes(*(_index_type(i).shape for i in indices))
    target = (*shape, *t.shape[len(indices) :])
    require(u.dtype is t.dtype, f"element types differ: {t} and {u}")
    require(broadcast_shapes(u.shape, target) == target, f"updates {u} do not fit {list(target)}")
    return t


@op(
    "scatter",
    "x updates *indices",
    rule=_scatter_rule,
    attrs={"accumulate": False},
    inplace=(0,),
    flops=_no_flops,
    samples=lambda rng: [
        Sample(
            (np.zeros((5, 3), np.float32), rng.standard_normal((2, 3)).astype(np.float32), np.array([4, 1])),
            {},
        ),
        Sample(
            (
                np.zeros((5, 3), np.float32),
                rng.standard_normal((3, 3)).astype(np.float32),
                np.array([4, 1, 4]),
            ),
            {"accumulate": True},
        ),
    ],
)
def scatter(x: Array, updates: Array, *indices: Array, accumulate: bool) -> Array:
    """x with x[indices] replaced by, or increased by, the updates (aten.index_put)."""
    y = x.copy()
    if accumulate:
        np.add.at(y, tuple(indices), updates)
    else:
        y[tuple(indices)] = updates
    return y
