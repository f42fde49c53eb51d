"""Making scales and codes of weights: the ops ``scales``, ``quantise`` and ``narrow``, by all processors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from forgec.ir.ops import compressed
from forgec.ir.types import DType

from .machine import extension, isa, shared_team, threads_default

__all__ = ["narrow", "quantise", "scales"]

_COPIED = 1 << 22
"""Elements that are copied at a time where the rows of a weight do not lie in memory one by one."""


def scales(weight: np.ndarray, *, bits: int, group: int) -> np.ndarray:
    """The op ``scales``."""
    if not _rows_of_floats(weight):
        return compressed.scales(weight, bits=bits, group=group)
    native, team = extension().scales, shared_team(threads_default()).native
    made = [native(team, part, group, bits, isa()) for part, _ in _parts(weight)]
    return made[0] if len(made) == 1 else np.concatenate(made, axis=1)


def quantise(
    weight: np.ndarray, scales: np.ndarray, offsets: np.ndarray | None = None, *, bits: int, group: int
) -> np.ndarray:
    """The op ``quantise``."""
    taken = np.empty((0, 0), np.float32) if offsets is None else offsets
    if not _rows_of_floats(weight) or not scales.dtype == taken.dtype == np.float32:
        return compressed.quantise(weight, scales, offsets, bits=bits, group=group)
    native, team = extension().quantise, shared_team(threads_default()).native
    made = [
        native(team, part, scales[:, at], taken[:, at], group, bits, isa()) for part, at in _parts(weight)
    ]
    codes = made[0] if len(made) == 1 else np.concatenate(made)
    return codes if bits == 8 else codes.view(DType.I4.numpy)


def narrow(weight: np.ndarray, *, dtype: str) -> np.ndarray:
    """The op ``narrow``."""
    if dtype != DType.F16.value or weight.dtype != np.float32 or not weight.flags.c_contiguous:
        return compressed.narrow(weight, dtype=dtype)
    made = extension().narrow(shared_team(threads_default()).native, weight, isa())
    return np.asarray(made).view(DType.F16.numpy).reshape(weight.shape)


def _rows_of_floats(weight: np.ndarray) -> bool:
    return weight.dtype == np.float32 and weight.ndim == 2 and weight.size > 0


def _parts(weight: np.ndarray) -> Iterator[tuple[np.ndarray, slice]]:
    """Rows that lie in memory one by one, and which they are: all at once if they need no copy."""
    count, depth = weight.shape
    whole = weight.strides[1] == weight.itemsize
    step = count if whole else max(1, _COPIED // depth)
    for start in range(0, count, step):
        at = slice(start, start + step)
        yield (weight if whole else np.ascontiguousarray(weight[at])), at
