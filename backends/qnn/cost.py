"""Microseconds of an instruction inside a larger segment on Hexagon, estimated.

A roofline over what the vendor's model said of single products and layers: arithmetic at the rate of the
matrix or vector engine, or the constants' bytes from memory, whichever takes longer. What flows between
instructions of a segment stays on the chip. A look-up counts the rows that it reads.
"""

from __future__ import annotations

from dataclasses import dataclass

from forgec.ir.op import get
from forgec.ir.program import ConstRef, Instr, Literal

__all__ = ["estimate_us"]

_LEAST_US = 0.05
_MATRIX = {"linear", "linear_q", "matmul", "attention", "conv"}
_LOOK_UPS = {"embedding", "gather", "take_along"}


@dataclass(frozen=True)
class _Rates:
    """Arithmetic operations per microsecond in matrix products and elsewhere, bytes per microsecond."""

    matrix: float
    vector: float
    memory: float


_V73 = _Rates(3.0e6, 6.0e4, 2.6e4)
_V81 = _Rates(8.0e6, 1.5e5, 6.5e4)
_RATES = {"hexagon-v73": _V73, "hexagon-v75": _V73, "hexagon-v79": _V73, "hexagon-v81": _V81}


def estimate_us(instr: Instr, target: str) -> float:
    """Estimated microseconds; floats count two bytes."""
    rates = _RATES[target]
    types = [None if x is None or isinstance(x, Literal) else x.type for x in instr.operands]
    results = [r.type for r in instr.results]
    flops = get(instr.op).flops(types, results, instr.attrs)
    read = (
        [r for r in results]
        if instr.op in _LOOK_UPS
        else [x.type for x in instr.operands if isinstance(x, ConstRef)]
    )
    moved = sum(min(t.nbytes, 2 * t.numel) for t in read)
    rate = rates.matrix if instr.op in _MATRIX else rates.vector
    return max(_LEAST_US, flops / rate, moved / rates.memory)
