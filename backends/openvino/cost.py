"""Microseconds of an instruction inside a larger segment on an Intel NPU, estimated.

A roofline: arithmetic at the rate of the matrix engines, or the constants' bytes from memory, whichever takes
longer. What flows between instructions of a segment is taken to stay on the chip, so that small ops cost next
to nothing there, as they do in the compiler's own simulation of whole networks. A look-up counts its whole
table, as in that simulation.
"""

from __future__ import annotations

from dataclasses import dataclass

from forgec.ir.op import get
from forgec.ir.program import ConstRef, Instr, Literal

__all__ = ["estimate_us"]

_LEAST_US = 0.05
_MATRIX = {"linear", "linear_q", "matmul", "attention", "conv"}


@dataclass(frozen=True)
class _Rates:
    """Arithmetic operations per microsecond in matrix products and elsewhere, bytes per microsecond."""

    matrix: float
    vector: float
    memory: float


_RATES = {
    "3720": _Rates(2.0e6, 3.0e4, 3.5e4),
    "4000": _Rates(6.0e6, 1.2e5, 4.5e4),
    "5010": _Rates(8.0e6, 2.0e5, 9.5e4),
}


def estimate_us(instr: Instr, platform: str) -> float:
    """Estimated microseconds; floats count two bytes."""
    rates = _RATES[platform]
    types = [None if x is None or isinstance(x, Literal) else x.type for x in instr.operands]
    flops = get(instr.op).flops(types, [r.type for r in instr.results], instr.attrs)
    moved = sum(min(x.type.nbytes, 2 * x.type.numel) for x in instr.operands if isinstance(x, ConstRef))
    rate = rates.matrix if instr.op in _MATRIX else rates.vector
    return max(_LEAST_US, flops / rate, moved / rates.memory)
