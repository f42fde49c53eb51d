"""Bounds that a program from outside must keep, so that no sum or product of sizes can run away."""

from __future__ import annotations

import math

from .types import DType, TensorType

__all__ = [
    "MAX_CALL_DEPTH",
    "MAX_DIM",
    "MAX_FLAT_INSTRS",
    "MAX_INT",
    "MAX_NBYTES",
    "MAX_RANK",
    "MAX_RECIPE_DEPTH",
    "type_excess",
]

MAX_DIM = 2**40
MAX_RANK = 8
MAX_NBYTES = 2**48
MAX_INT = 2**63 - 1
"""Largest magnitude of an integer literal or attribute."""
MAX_RECIPE_DEPTH = 64
MAX_CALL_DEPTH = 32
MAX_FLAT_INSTRS = 1 << 20
"""Instructions after all calls are expanded."""


def type_excess(t: TensorType) -> str | None:
    """What is out of bounds in a type, or None. Zero sizes count as one, so that strides are bounded too."""
    if len(t.shape) > MAX_RANK:
        return f"rank {len(t.shape)} is over {MAX_RANK}"
    for n in t.shape:
        if not 0 <= n <= MAX_DIM:
            return f"size {n} is outside 0..2**40"
    if t.dtype is DType.I4 and (not t.shape or t.shape[-1] % 2):
        return f"{t} has no even last axis"
    if math.prod([n or 1 for n in t.shape]) * t.dtype.itemsize > MAX_NBYTES:
        return f"{t} is over 2**48 bytes"
    return None
