"""Attention in plain ops: two matrix products around a softmax, masks added as floats.

Before: ``y = attention q, k, v, mask {scale, causal, ...}``. After: ``matmul``, ``softcap``, ``add`` of one
mask, ``softmax``, ``matmul``, and a transposition for rows before heads. Grouped heads either fold into the
rows of their key head, [batch, kv, group * rows, size], or the key heads are repeated.

What is masked gets -3e4 instead of minus infinity, which 16-bit floats hold with room for a score. A row with
everything masked gives a mean of all values, and zeros before; nothing reads such rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from forgec.ir.op import get
from forgec.ir.program import ConstRef, Instr, Operand
from forgec.ir.program import Literal as Scalar
from forgec.ir.types import DType

from .builder import Builder, Rule, type_of

__all__ = ["MASKED", "decompose_attention", "float_mask"]

MASKED = -3e4


def decompose_attention(groups: Literal["fold", "repeat", "fold rows of one"]) -> Rule:
    """A rule for attention; ``groups`` says what becomes of grouped heads. "fold rows of one" folds where
    the queries have one row, as in decoding, and repeats the key heads else."""

    def rule(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        if instr.op != "attention":
            return None
        q, k, v, mask, filled = instr.operands
        attrs = {**get("attention").attrs, **instr.attrs}
        query, key, value = type_of(q), type_of(k), type_of(v)
        assert query is not None and key is not None and value is not None
        batch, heads, rows, size = query.shape
        kv_heads, length = key.shape[1], key.shape[2]
        ratio = heads // kv_heads
        fold = ratio > 1 and (groups == "fold" or (groups != "repeat" and rows == 1))
        shape = (batch, kv_heads, ratio * rows, size) if fold else query.shape
        if fold:
            q = build.op("reshape", q, shape=shape)
        elif ratio > 1:
            k, v = _repeated(build, k, ratio), _repeated(build, v, ratio)
        if attrs["scale"] != 1.0:
            q = build.op("mul", q, _literal(attrs["scale"]))
        scores = build.op("matmul", q, build.op("transpose", k, perm=(0, 1, 3, 2)))
        if attrs["softcap"]:
            capped = build.op("tanh", build.op("div", scores, _literal(attrs["softcap"])))
            scores = build.op("mul", capped, _literal(attrs["softcap"]))
        causal, window = bool(attrs["causal"]), int(attrs["window"])
        if attrs["bounded"] and filled is None and not causal and not window:
            added = mask
        elif filled is None:
            added = _mask(build, mask, rows, length, causal, window, query.dtype)
        else:
            added = _filled_mask(build, mask, rows, length, causal, window, query.dtype, filled)
        if added is not None:
            scores = build.op("add", scores, _grouped(build, added, kv_heads, ratio) if fold else added)
        y = build.op("matmul", build.op("softmax", scores, axis=-1), v)
        if fold:
            y = build.op("reshape", y, shape=(batch, heads, rows, value.shape[3]))
        if attrs["seq_major"]:
            y = build.op("copy", build.op("transpose", y, perm=(0, 2, 1, 3)))
        return (y,)

    return rule


def _literal(value: Any) -> Operand:
    return Scalar(float(value))


def _repeated(build: Builder, x: Operand, ratio: int) -> Operand:
    """[batch, kv, length, size] with every head ``ratio`` times."""
    kind = type_of(x)
    assert kind is not None
    batch, heads, length, size = kind.shape
    apart = build.op("reshape", x, shape=(batch, heads, 1, length, size))
    spread = build.op("expand", apart, shape=(batch, heads, ratio, length, size))
    return build.op("reshape", build.op("copy", spread), shape=(batch, heads * ratio, length, size))


def _mask(
    build: Builder, mask: Operand, rows: int, length: int, causal: bool, window: int, dtype: DType
) -> Operand:
    """One float mask for the mask operand and the places that causality and the window leave, or None."""
    given: Operand = None
    if mask is not None:
        given = build.once(("mask", mask), lambda: float_mask(build, mask, dtype))
    if not causal and not window:
        return given
    distance = np.arange(rows)[:, None] + (length - rows) - np.arange(length)[None, :]
    near = (distance >= 0) if causal else np.ones_like(distance, dtype=bool)
    if window:
        near &= distance < window
    if near.all():
        return given
    name = f"%mask[{rows},{length},{causal},{window},{dtype.value}]"
    own = build.tensor(name, np.where(near, 0.0, MASKED).astype(dtype.numpy)[None, None])
    if given is None:
        return own
    return build.once(("both", mask, name), lambda: build.op("add", given, own))


def _filled_mask(
    build: Builder,
    mask: Operand,
    rows: int,
    length: int,
    causal: bool,
    window: int,
    dtype: DType,
    filled: Operand,
) -> Operand:
    """Like :func:`_mask` where only the first ``filled`` columns count, a number known when it runs."""
    shape = f"{rows},{length},{causal},{window},{dtype.value}"

    def make() -> Operand:
        columns = build.tensor(f"%columns[{length}]", np.arange(length).reshape(1, 1, 1, -1))
        allowed = build.op("lt", columns, filled)
        if causal or window:
            before = build.tensor(f"%rows[{rows}]", (np.arange(rows) - rows).reshape(1, 1, -1, 1))
            last = build.op("add", before, filled)
            if causal:
                allowed = build.op("le", columns, last)
            if window:
                first = build.op("sub", last, Scalar(window))
                allowed = build.op("and", allowed, build.op("gt", columns, first))
        return _chosen(build, allowed, dtype)

    own = build.once(("filled", filled, shape), make)
    if mask is None:
        return own
    given = build.once(("mask", mask), lambda: float_mask(build, mask, dtype))
    return build.once(("both", mask, filled, shape), lambda: build.op("add", given, own))


def float_mask(build: Builder, mask: Operand, dtype: DType) -> Operand:
    """What a mask, of booleans or floats, adds to scores: numbers that 16 bits hold."""
    kind = type_of(mask)
    assert kind is not None
    if kind.dtype is DType.BOOL:
        return _chosen(build, mask, dtype)
    if isinstance(mask, ConstRef):
        return build.constant("clamp", mask, low=MASKED)
    return build.op("clamp", mask, low=MASKED)


def _chosen(build: Builder, mask: Operand, dtype: DType) -> Operand:
    zero = build.tensor(f"%zero[{dtype.value}]", np.zeros((1, 1, 1, 1), dtype.numpy))
    return build.op("where", mask, zero, _literal(MASKED))


def _grouped(build: Builder, mask: Operand, kv_heads: int, ratio: int) -> Operand:
    """A mask that fits scores [batch, kv, ratio * rows, length]."""
    kind = type_of(mask)
    assert kind is not None
    batch, heads, rows, length = (1,) * (4 - kind.rank) + kind.shape
    if heads == 1 and rows == 1:
        return mask

    def make() -> Operand:
        shape = (batch, kv_heads if heads > 1 else 1, ratio, rows, length)
        if heads > 1:
            return build.op("reshape", mask, shape=(batch, kv_heads, ratio * rows, length))
        apart = build.op("reshape", mask, shape=(batch, 1, 1, rows, length))
        spread = build.op("copy", build.op("expand", apart, shape=shape))
        return build.op("reshape", spread, shape=(batch, 1, ratio * rows, length))

    return build.once(("grouped", mask, ratio), make)
