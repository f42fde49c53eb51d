"""Scales for groups that divide a row.

Before: ``y = linear_q x[m,192], c0, c1[2,n] {group=128}``. After: ``y = linear_q x, c0, c2[3,n] {group=64}``
with ``c2`` the scales of the groups of 64, which is exact. Vendors' compilers know groups of one size only.

Does not fire where the group divides the row, or its common divisor with the row is below 8, the least group
of the IR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from forgec.ir.program import ConstRef, Instr, Operand

from ..attributes import integer
from .builder import Builder

__all__ = ["even", "even_groups"]

_LEAST = 8


def even(depth: int, group: int) -> bool:
    """Whether rows have groups of one size: a multiple of 8 that divides row and group."""
    return math.gcd(depth, group) % _LEAST == 0


def even_groups(build: Builder, instr: Instr) -> Sequence[Operand] | None:
    group = integer(instr, "group") if instr.op == "linear_q" else 0
    codes, scales = instr.operands[1:3] if group else (None, None)
    if not isinstance(codes, ConstRef) or not isinstance(scales, ConstRef):
        return None
    n, depth = codes.type.shape
    common = math.gcd(group, depth)
    if common == group or not even(depth, group):
        return None
    count, times = scales.type.shape[0], group // common
    one_each = build.constant("reshape", scales, shape=(count, 1, n))
    repeated = build.constant("expand", one_each, shape=(count, times, n))
    flat = build.constant("reshape", repeated, shape=(count * times, n))
    fitting = build.constant("slice", flat, axis=0, start=0, stop=depth // common)
    x, _, _, *rest = instr.operands
    return build.ops("linear_q", x, codes, fitting, *rest, **{**instr.attrs, "group": common})
