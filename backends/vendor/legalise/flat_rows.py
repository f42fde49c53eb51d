"""Matrix products with a weight, and norms over the last axis, on two axes.

Before: ``y = linear x[b,s,k], w, bias``. After: ``reshape`` to [b*s, k], the same op, ``reshape`` back.
Vendors' compilers have their best kernels for this form, and rank-4 RMSNorm is computed wrongly by one of
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from forgec.ir.program import Instr, Operand

from .builder import Builder, Rule, type_of

__all__ = ["flatten_rows"]


def flatten_rows(*names: str) -> Rule:
    """A rule for the named ops, whose first operand has rows on all axes but the last; the op must have one
    result and leave all axes but the last as they are."""

    def rule(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        kind = type_of(instr.operands[0])
        if instr.op not in names or kind is None or kind.rank == 2:
            return None
        x, *rest = instr.operands
        rows = build.op("reshape", x, shape=(math.prod(kind.shape[:-1]), kind.shape[-1]))
        flat = build.op(instr.op, rows, *rest, **instr.attrs)
        return (build.op("reshape", flat, shape=instr.results[0].type.shape),)

    return rule
