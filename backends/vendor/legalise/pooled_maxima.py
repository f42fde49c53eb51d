"""Attention over many scores without a softmax: maxima by pooling, exponentials as a product's epilogue.

Before: ``y = attention q[1,1,r,d], k[1,1,l,d], v``. After: the scores are made twice. ``matmul k, q`` has
what belongs to a query as one channel of an image, and max pooling leaves ``m``, its largest score. Then
``e = exp (matmul [q, m, 1], [k, -1, -c])`` is exp(score - m - c), ``matmul e, [v, 1]`` has the sums of
exponentials beside those of values, and ``y`` is their quotient. ``c`` is half the logarithm of ``l``, so
that sums stay far from the ends of 16 bits. A mask of keys is one more column of ``k``, beside a one in
``q``.

Matrix engines that know exp do all but the quotient; a softmax keeps the vector engines busy for ten times as
long as the products take. Rounding ``m`` changes nothing, since it is a factor of both sides of the quotient.
Where no key counts the result is some mean of the values.

Does not fire for few scores, for masks that differ by query or head, causal ones, windows, caps, and where
only the first of the keys count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from forgec.ir.op import get
from forgec.ir.program import Instr, Literal, Operand
from forgec.ir.types import DType

from .attention import float_mask
from .builder import Builder, Rule, type_of

__all__ = ["pool_maxima"]

_WINDOW = 11
"""The longest side of a window that the engines pool at once."""


def pool_maxima(scores: int) -> Rule:
    """A rule for attention with more than so many ``scores`` in a head."""

    def rule(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        if instr.op != "attention":
            return None
        attrs = {**get("attention").attrs, **instr.attrs}
        q, k, v, mask, filled = instr.operands
        query, key = type_of(q), type_of(k)
        assert query is not None and key is not None
        batch, heads, rows, _ = query.shape
        length = key.shape[2]
        special = any(attrs[name] for name in ("causal", "window", "softcap", "bounded"))
        if special or filled is not None or rows * length <= scores or not _of_keys(mask, length):
            return None
        if attrs["scale"] != 1.0:
            q = build.op("mul", q, Literal(float(attrs["scale"])))
        column: Operand = None
        if mask is not None:
            column = build.once(("column", mask), lambda: _column(build, mask, query.dtype))
        made = []
        for item in range(batch):
            masked = None if column is None else _one(build, column, item, 0)
            for head in range(heads):
                group = head * key.shape[1] // heads
                own = _one(build, q, item, head), _one(build, k, item, group), _one(build, v, item, group)
                made.append(_attend(build, *own, masked))
        items = [_beside(build, 1, made[i : i + heads]) for i in range(0, len(made), heads)]
        y = _beside(build, 0, items)
        if attrs["seq_major"]:
            y = build.op("copy", build.op("transpose", y, perm=(0, 2, 1, 3)))
        return (y,)

    return rule


def _attend(build: Builder, q: Operand, k: Operand, v: Operand, mask: Operand) -> Operand:
    """One head; ``mask`` is [1, 1, length, 1] or None."""
    query, key, value = type_of(q), type_of(k), type_of(v)
    assert query is not None and key is not None and value is not None
    rows, length, size = query.shape[2], key.shape[2], value.shape[3]

    def columns(count: int, *values: float) -> Operand:
        block = np.tile(np.array(values, query.dtype.numpy), (1, 1, count, 1))
        return build.tensor(f"%columns[{count},{values},{query.dtype.value}]", block)

    if mask is not None:
        q, k = _beside(build, 3, [q, columns(rows, 1.0)]), _beside(build, 3, [k, mask])
    largest = _maxima(build, q, k)
    q = _beside(build, 3, [q, largest, columns(rows, 1.0)])
    k = _beside(build, 3, [k, columns(length, -1.0, -math.log(length) / 2)])
    e = build.op("exp", build.op("matmul", q, build.op("transpose", k, perm=(0, 1, 3, 2))))
    y = build.op("matmul", e, _beside(build, 3, [v, columns(length, 1.0)]))
    sums = build.op("slice", y, axis=3, start=size, stop=size + 1, step=1)
    return build.op("div", build.op("slice", y, axis=3, start=0, stop=size, step=1), sums)


def _maxima(build: Builder, q: Operand, k: Operand) -> Operand:
    """[1, 1, rows, 1]: for every row of ``q`` its largest product with a row of ``k``."""
    query, key = type_of(q), type_of(k)
    assert query is not None and key is not None
    rows, length = query.shape[2], key.shape[2]
    side = math.isqrt(length)
    width = next((w for w in range(side, side // 3, -1) if length % w == 0), side)
    height = -(-length // width)
    if more := height * width - length:  # some rows twice, which leaves maxima as they are
        k = _beside(build, 2, [k, build.op("slice", k, axis=2, start=0, stop=more, step=1)])
    y = build.op("matmul", k, build.op("transpose", q, perm=(0, 1, 3, 2)))
    y = build.op("reshape", y, shape=(1, height, width, rows))
    y = build.op("transpose", y, perm=(0, 3, 1, 2))
    while y.type.shape[2:] != (1, 1):
        window = tuple(-(-n // -(-n // _WINDOW)) for n in y.type.shape[2:])
        y = build.op("pool", y, kernel=window, stride=window, padding=(0, 0), dilation=(1, 1), ceil=True)
    return build.op("reshape", y, shape=(1, 1, rows, 1))


def _of_keys(mask: Operand, length: int) -> bool:
    """True for no mask, and one that is the same for all queries and heads of a batch's item."""
    kind = type_of(mask)
    if kind is None:
        return True
    batch = kind.shape[0] if kind.rank == 4 else 1
    return kind.shape[-1] == length and kind.numel == batch * length


def _column(build: Builder, mask: Operand, dtype: DType) -> Operand:
    """[batch, 1, length, 1]: what the mask adds to the scores of a key."""
    added = build.once(("mask", mask), lambda: float_mask(build, mask, dtype))
    kind = type_of(added)
    assert kind is not None
    batch = kind.shape[0] if kind.rank == 4 else 1
    return build.op("reshape", added, shape=(batch, 1, kind.shape[-1], 1))


def _one(build: Builder, x: Operand, item: int, head: int) -> Operand:
    """[1, 1, ...]: one head of one item, or the only one there is."""
    for axis, index in enumerate((item, head)):
        kind = type_of(x)
        assert kind is not None
        if kind.shape[axis] > 1:
            x = build.op("slice", x, axis=axis, start=index, stop=index + 1, step=1)
    return x


def _beside(build: Builder, axis: int, parts: Sequence[Operand]) -> Operand:
    return parts[0] if len(parts) == 1 else build.op("concat", *parts, axis=axis)
