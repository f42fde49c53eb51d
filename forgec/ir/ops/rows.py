"""Rows written into a cache: as a value (``update_rows``), or in place in a state (``write_rows``).

Programs are written with the first, which is pure; ``ir.in_place`` makes the second of it where the cache is
a state, so that no cache is ever copied. Where a device attends over a cache and new rows behind it
(``ir.old_and_new``), ``cache_mask`` says what of both it may see.
"""

from __future__ import annotations

import numpy as np

from ..op import Sample, op
from ..types import DType, TensorType
from .rules import broadcast_shapes, require, tensor

Array = np.ndarray


def _update_rule(cache: TensorType | None, new: TensorType | None, position: TensorType | None) -> TensorType:
    into, rows, at = tensor(cache, "cache"), tensor(new, "new"), tensor(position, "position")
    require(at == TensorType(DType.I64, ()), f"position must be i64[], not {at}")
    require(into.rank >= 2, f"a cache has rank 2 or more, not {into}")
    fits = into.dtype is rows.dtype and into.rank == rows.rank and rows.shape[-2] <= into.shape[-2]
    same = (*into.shape[:-2], into.shape[-1]) == (*rows.shape[:-2], rows.shape[-1])
    require(fits and same, f"rows {rows} do not fit into {into}")
    return into


def _samples(rng: np.random.Generator) -> list[Sample]:
    cache, new = rng.standard_normal((2, 3, 7, 4)), rng.standard_normal((2, 2, 3, 4))
    strided = new.astype(np.float32).swapaxes(1, 2)
    one = rng.standard_normal((3, 1, 4)).astype(np.float32)
    return [
        Sample((cache.astype(np.float32), strided, np.array(0)), {}),
        Sample((cache.astype(np.float32), strided, np.array(5)), {}),
        Sample((cache[0].astype(np.float32), one, np.array(6)), {}),
    ]


def _first_row(cache: Array, new: Array, position: Array) -> int:
    first, last = int(position), cache.shape[-2] - new.shape[-2]
    if not 0 <= first <= last:
        raise IndexError(f"row {first} is outside [0, {last}], where {new.shape[-2]} rows fit into the cache")
    return first


@op(
    "update_rows",
    "cache new position",
    rule=_update_rule,
    inplace=(0,),
    flops=lambda types, results, attrs: 0.0,
    samples=_samples,
)
def update_rows(cache: Array, new: Array, position: Array) -> Array:
    """cache [..., C, D] with rows [position, position + T) replaced by new [..., T, D].

    Nothing may depend on what the result has from row position + T on. Rows that do not fit are an error
    (IndexError).
    """
    first = _first_row(cache, new, position)
    result = cache.copy()
    result[..., first : first + new.shape[-2], :] = new
    return result


def _write_rule(*types: TensorType | None) -> tuple[TensorType, ...]:
    _update_rule(*types)
    return ()


@op(
    "write_rows",
    "state new position",
    rule=_write_rule,
    flops=lambda types, results, attrs: 0.0,
    pure=False,
)
def write_rows(state: Array, new: Array, position: Array) -> tuple[Array, ...]:
    """Rows [position, position + T) of a state [..., C, D] become new [..., T, D]; no result."""
    first = _first_row(state, new, position)
    state[..., first : first + new.shape[-2], :] = new
    return ()


@op("view_state", "state", rule=lambda state: tensor(state, "state"), view=True)
def view_state(state: Array) -> Array:
    """The bytes of a state, without a copy: what is read through it is what the state has then."""
    return state


HIDDEN = -3e4
"""What is added to scores that do not count: 16 bits hold it and a score together."""


def _mask_rule(
    position: TensorType | None,
    mask: TensorType | None,
    *,
    rows: int,
    columns: int,
    causal: bool,
    window: int,
) -> TensorType:
    at = tensor(position, "position")
    require(at == TensorType(DType.I64, ()), f"position must be i64[], not {at}")
    require(0 < rows <= columns, f"{rows} rows do not fit into a cache of {columns}")
    require(window >= 0, "window must not be negative")
    lead: tuple[int, ...] = (1, 1)
    dtype = DType.F32
    if mask is not None:
        require(mask.dtype is DType.BOOL or mask.dtype.is_float, f"mask must be bool or float, not {mask}")
        full = (1,) * (4 - mask.rank) + mask.shape
        lead = full[:2]
        dtype = DType.F32 if mask.dtype is DType.BOOL else mask.dtype
        wanted = (*lead, rows, columns)
        require(
            mask.rank <= 4 and broadcast_shapes(full, wanted) == wanted,
            f"mask {mask} does not broadcast to {rows} rows of {columns} columns",
        )
    return TensorType(dtype, (*lead, rows, columns + rows))


def _mask_samples(rng: np.random.Generator) -> list[Sample]:
    allowed = np.arange(7) <= np.arange(3)[:, None] + 2
    bias = rng.standard_normal((1, 4, 1, 7)).astype(np.float32)
    return [
        Sample((np.array(4), None), {"rows": 1, "columns": 7}),
        Sample((np.array(2), allowed[None, None]), {"rows": 3, "columns": 7}),
        Sample((np.array(0), bias), {"rows": 3, "columns": 7, "causal": True, "window": 2}),
    ]


@op(
    "cache_mask",
    "position mask?",
    rule=_mask_rule,
    attrs={"rows": 1, "columns": 1, "causal": False, "window": 0},
    samples=_mask_samples,
)
def cache_mask(
    position: Array, mask: Array | None, *, rows: int, columns: int, causal: bool, window: int
) -> Array:
    """What attention over a cache as it was, and behind it ``rows`` new rows, adds to its scores.

    The result is [.., rows, columns + rows], of the mask's type or f32. ``mask`` [.., rows or 1, columns or
    1] is that of attention over the cache with the new rows at ``position``, ``causal`` and ``window`` too,
    with position + rows columns that count. Of the old columns those before ``position`` may be seen, the new
    ones have the mask of columns position to position + rows. What is hidden gets -3e4, and nothing is lower.
    """
    first = min(max(int(position), 0), columns - rows)
    row, old, new = np.arange(rows)[:, None], np.arange(columns)[None], np.arange(rows)[None]
    behind = np.broadcast_to(old < first, (rows, columns))
    among = np.broadcast_to(new <= row, (rows, rows)) if causal else np.ones((rows, rows), np.bool_)
    if window:
        behind = behind & (old > row + first - window)
        among = among & (new > row - window)
    allowed = np.concatenate([behind, among], axis=-1)[None, None]
    if mask is None:
        return np.where(allowed, np.float32(0), np.float32(HIDDEN))
    whole = np.broadcast_to(mask, (*((1,) * (4 - mask.ndim)), *mask.shape[:-1], columns))
    given = np.concatenate([whole, whole[..., first : first + rows]], axis=-1)
    if given.dtype == np.bool_:
        return np.where(allowed & given, np.float32(0), np.float32(HIDDEN))
    return np.maximum(np.where(allowed, given, np.float32(HIDDEN)), np.float32(HIDDEN))
