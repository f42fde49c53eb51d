"""The norm of a sum as a sum and a norm.

Before: ``s, y = add_layer_norm x, r, w, b``. After: ``s = add x, r``; ``y = layer_norm s, w, b``.
"""

from __future__ import annotations

from collections.abc import Sequence

from forgec.ir.program import Instr, Operand

from .builder import Builder

__all__ = ["split_residual_norm"]

_PLAIN = {"add_layer_norm": "layer_norm", "add_rms_norm": "rms_norm"}


def split_residual_norm(build: Builder, instr: Instr) -> Sequence[Operand] | None:
    if instr.op not in _PLAIN:
        return None
    x, residual, *scales = instr.operands
    total = build.op("add", x, residual)
    return total, build.op(_PLAIN[instr.op], total, *scales, **instr.attrs)
