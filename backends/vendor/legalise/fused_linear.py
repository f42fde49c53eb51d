"""A matrix product with an epilogue as a plain one, an activation and a sum, compressed weights too.

Before: ``y = linear x, w, b, r {act}``. After: ``p = linear x, w, b``; ``a = act p``; ``y = add a, r``.
"""

from __future__ import annotations

from collections.abc import Sequence

from forgec.ir.program import Instr, Operand

from .builder import Builder

__all__ = ["split_linear"]


def split_linear(build: Builder, instr: Instr) -> Sequence[Operand] | None:
    if instr.op not in ("linear", "linear_q"):
        return None
    *given, residual = instr.operands
    act = str(instr.attrs.get("act", ""))
    if not act and residual is None:
        return None
    y = build.op(instr.op, *given, None, **{**instr.attrs, "act": ""})
    if act:
        y = build.op(act, y)
    return (y if residual is None else build.op("add", y, residual),)
