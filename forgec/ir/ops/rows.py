"""Rows written into a cache: as a value (``update_rows``), or in place in a state (``write_rows``).

Programs are written with the first, which is pure; ``ir.in_place`` makes the second of it where the cache is
a state, so that no cache is ever copied.
"""

from __future__ import annotations

import numpy as np

from ..op import Sample, op
from ..types import DType, TensorType
from .rules import require, tensor

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
