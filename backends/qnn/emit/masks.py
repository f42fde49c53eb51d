"""Masks of attention as numbers to add to the scores: 0, and -10000 where nothing may be seen.

What is constant becomes one constant; what all layers share is computed once. A row that may attend to
nothing gives the mean of the values then, not zeros as in the IR; no later row reads it in a transformer.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from forgec.ir.program import ConstRef, Instr, Operand, Register
from forgec.ir.types import DType

from ...vendor.attributes import flag, integer
from .builder import Builder

__all__ = ["Sizes", "score_bias"]

_MASKED = -10_000.0


@dataclass(frozen=True)
class Sizes:
    """Of scores [batch, heads, rows, columns], with ``heads`` in groups of one of ``kv_heads``."""

    heads: int
    kv_heads: int
    rows: int
    columns: int

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads


def score_bias(b: Builder, instr: Instr, sizes: Sizes) -> str | None:
    """What is added to the scores [batch, kv_heads, group * rows, columns]; None if nothing is."""
    mask, length = instr.operands[3:]
    causal, window = flag(instr, "causal"), integer(instr, "window")
    parts: list[tuple[Hashable, str]] = []
    key: Hashable
    fixed = _fixed(b, mask, _band(sizes, causal, window) if length is None else None)
    if fixed is not None:
        array = fixed
        key = ("fixed mask", _name(mask), causal, window, length is None, sizes)
        parts.append((key, b.once(key, lambda: b.initializer(_grouped(array, sizes)))))
    if isinstance(mask, Register):
        key = ("mask", mask.id, sizes)
        parts.append((key, b.once(key, lambda: _runtime(b, mask, sizes))))
    if length is not None:
        key = ("filled", _name(length), causal, window, sizes)
        parts.append((key, b.once(key, lambda: _filled(b, length, sizes, causal, window))))
    total: tuple[Hashable, str] | None = None
    for part in parts:
        total = part if total is None else _sum(b, total, part)
    return None if total is None else total[1]


def _sum(b: Builder, left: tuple[Hashable, str], right: tuple[Hashable, str]) -> tuple[Hashable, str]:
    key = (left[0], right[0])
    return key, b.once(key, lambda: b.node("Add", left[1], right[1], step="masks"))


def _name(x: Operand) -> Hashable:
    return x.name if isinstance(x, ConstRef) else getattr(x, "id", None)


def _fixed(b: Builder, mask: Operand, band: np.ndarray | None) -> np.ndarray | None:
    """A constant mask and the band of positions in one."""
    given = b.static(mask)
    if given is None:
        return band
    return _additive(given) if band is None else np.maximum(_additive(given) + band, _MASKED)


def _band(sizes: Sizes, causal: bool, window: int) -> np.ndarray | None:
    """0 where row i may see column j by position, else -10000; None if it may everywhere."""
    if not causal and not window:
        return None
    rows, columns = sizes.rows, sizes.columns
    distance = np.arange(rows)[:, None] + (columns - rows) - np.arange(columns)[None, :]
    allowed = distance >= 0 if causal else np.ones_like(distance, dtype=bool)
    if window:
        allowed &= distance < window
    return None if allowed.all() else _additive(allowed)


def _filled(b: Builder, length: Operand, sizes: Sizes, causal: bool, window: int) -> str:
    """The band for ``length`` columns, the last of which belongs to the last row; those after are out."""
    end = b.value(length, (1,))
    column = np.arange(sizes.columns, dtype=np.int32).reshape(1, 1, 1, -1)
    allowed = b.node("Less", b.initializer(column), end, step="filled")
    if causal or window:
        offset = b.initializer(column - np.arange(sizes.rows, dtype=np.int32).reshape(1, 1, -1, 1))
        last = b.node("Sub", end, b.scalar(sizes.rows, DType.I32), step="last")
        if causal:
            near = b.node("LessOrEqual", offset, last, step="causal")
            allowed = b.node("And", allowed, near)
        if window:
            first = b.node("Sub", last, b.scalar(window, DType.I32), step="first")
            allowed = b.node("And", allowed, b.node("Greater", offset, first, step="window"))
    rows = sizes.rows if causal or window else 1
    return _repeated(b, _as_floats(b, allowed), (1, 1, rows, sizes.columns), sizes)


def _additive(mask: np.ndarray) -> np.ndarray:
    """A mask as rank-4 numbers to add, none below -10000."""
    values = np.where(mask, 0.0, _MASKED) if mask.dtype == np.bool_ else mask.astype(np.float32)
    values = np.maximum(values, _MASKED).astype(np.float32)
    return values.reshape((1,) * (4 - values.ndim) + values.shape)


def _as_floats(b: Builder, allowed: str) -> str:
    """:func:`_additive` of computed booleans."""
    scaled = b.node("Mul", b.cast(allowed, DType.F32), b.scalar(-_MASKED, DType.F32), step="mask")
    return b.node("Add", scaled, b.scalar(_MASKED, DType.F32), step="mask")


def _grouped(mask: np.ndarray, sizes: Sizes) -> np.ndarray:
    """A mask [b, 1 or heads, 1 or rows, columns] for scores whose rows are those of a group of heads."""
    group = sizes.group
    if group == 1 or mask.shape[1] == mask.shape[2] == 1:
        return mask
    if mask.shape[1] == 1:
        return np.tile(mask, (1, 1, group, 1)) if mask.shape[2] == sizes.rows else mask
    full = np.broadcast_to(mask, (mask.shape[0], sizes.heads, sizes.rows, mask.shape[3]))
    return full.reshape(mask.shape[0], sizes.kv_heads, group * sizes.rows, mask.shape[3])


def _runtime(b: Builder, mask: Register, sizes: Sizes) -> str:
    """:func:`_additive` and :func:`_grouped` of a mask that is computed."""
    shape = (1,) * (4 - mask.type.rank) + mask.type.shape
    name = b.value(mask, shape)
    if mask.type.dtype is DType.BOOL:
        name = _as_floats(b, name)
    return _repeated(b, name, shape, sizes)


def _repeated(b: Builder, name: str, shape: tuple[int, ...], sizes: Sizes) -> str:
    """:func:`_grouped` of a computed mask of numbers."""
    if sizes.group == 1 or shape[1] == shape[2] == 1:
        return name
    if shape[1] == 1:
        if shape[2] != sizes.rows:
            return name
        return b.node("Concat", *[name] * sizes.group, axis=2, step="mask_rows")
    if shape[2] != sizes.rows:
        name = b.node("Expand", name, b.ints((shape[0], sizes.heads, sizes.rows, shape[3])))
    return b.reshape(name, (shape[0], sizes.kv_heads, sizes.group * sizes.rows, shape[3]))
