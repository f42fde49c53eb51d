"""Weights whose numbers floats of 16 bits hold: which they are, and their recipes in such a type.

Checkpoints are mostly of bf16 or f16, and computed in f32. A weight of the program is some movement of source
tensors (transposed, sliced, side by side), by which no value changes, so that the movement of narrow ones
gives the weight in half the bytes, and to the bit. Linear in the size of a recipe; nothing is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .op import get
from .program import Apply, Leaf, Recipe
from .recipes import applied
from .types import HALVES, DType

__all__ = ["HALF_FORMATS", "half_of", "holds_all", "narrowed"]

HALF_FORMATS = {"fp16": DType.F16, "bf16": DType.BF16}
"""Formats of weights (``forgec.weights``) that are floats of 16 bits, and their type."""

_ROWS = 1 << 18
"""Numbers that are looked at at a time, so that the first few tell of most weights that they are wider."""

_LEAST_BITS, _SPAN_BITS = np.uint32(0x38800000), np.uint32(0x0F000000)
"""Bits of the least normal f16 as f32, and how far those of the others, without a sign, are above."""


def half_of(array: np.ndarray) -> DType | None:
    """The type of 16 bits that holds every number of an array of f32, bf16 before f16; None if neither."""
    flat = array.reshape(-1)
    if not flat.size:
        return None
    return next((dtype for dtype in (DType.BF16, DType.F16) if _holds(flat, dtype)), None)


def _holds(flat: np.ndarray, dtype: DType) -> bool:
    for start in range(0, flat.size, _ROWS):
        part = flat[start : start + _ROWS]
        bits = part.view(np.uint32)
        if dtype is DType.BF16:
            if np.bitwise_or.reduce(bits) & 0xFFFF:
                return False
            continue
        if np.bitwise_or.reduce(bits) & 0x1FFF:  # most that it does not hold, in a pass that is quick
            return False
        rare = part[(bits & 0x7FFFFFFF) - _LEAST_BITS >= _SPAN_BITS]
        with np.errstate(over="ignore"):
            again = rare.astype(np.float16).astype(np.float32)
        if not np.array_equal(again.view(np.uint32), rare.view(np.uint32)):
            return False
    return True


def narrowed(recipe: Recipe, half: Callable[[str], DType | None]) -> Recipe | None:
    """A weight of f32 in the type of 16 bits of all source tensors that it is made of, which :func:`half_of`
    gives, by name, for those of f32; None if they have none, or not one, or something is computed."""
    if isinstance(recipe, Leaf):
        dtype = half(recipe.name) if recipe.type.dtype is DType.F32 else None
        return None if dtype is None else applied("narrow", [recipe], dtype=dtype.value)
    inner = _widened(recipe)
    if inner is not None:
        return inner
    if not _moves(recipe):
        return None
    parts = [narrowed(arg, half) for arg in recipe.args if isinstance(arg, Leaf | Apply)]
    found = [part for part in parts if part is not None]
    if len(found) < len(recipe.args) or len({part.type.dtype for part in found}) != 1:
        return None
    return applied(recipe.op, found, **dict(recipe.attrs))


def holds_all(recipe: Recipe) -> bool:
    """Whether a weight of 16 bits has the numbers of its source tensors: nothing was rounded to it."""
    if isinstance(recipe, Leaf):
        return recipe.type.dtype in HALVES
    if recipe.op == "narrow":
        return True
    return _moves(recipe) and all(holds_all(arg) for arg in recipe.args if isinstance(arg, Leaf | Apply))


def _widened(recipe: Apply) -> Recipe | None:
    """What a recipe makes f32 of, if that has 16 bits."""
    (inner, *_) = recipe.args
    half = isinstance(inner, Leaf | Apply) and inner.type.dtype in HALVES
    if recipe.op != "cast" or recipe.type.dtype is not DType.F32 or not half:
        return None
    assert isinstance(inner, Leaf | Apply)
    return inner if holds_all(inner) else None


def _moves(recipe: Apply) -> bool:
    return get(recipe.op).view or recipe.op == "concat"
