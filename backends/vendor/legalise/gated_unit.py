"""A gated unit as an activation and a product.

Before: ``y = gated g, u {act}``. After: ``a = act g``; ``y = mul a, u``.
"""

from __future__ import annotations

from collections.abc import Sequence

from forgec.ir.program import Instr, Operand

from .builder import Builder

__all__ = ["split_gated"]


def split_gated(build: Builder, instr: Instr) -> Sequence[Operand] | None:
    if instr.op != "gated":
        return None
    gate, up = instr.operands
    return (build.op("mul", build.op(str(instr.attrs.get("act", "silu")), gate), up),)
