"""A product that narrows its rows in parts of its outputs.

Before: ``y = linear x[m,3072], c1[768,3072], c2, r``. After, in two parts: ``y0 = linear x, c1[:384],
c2[:384]; y1 = linear x, c1[384:], c2[384:]; y = add (concat y0, y1), r``. The weights of the second part come
while the first is computed.

Does not fire for a weight computed in the segment, for results over half as wide as the input, where rows or
outputs of a part are no whole vectors, and for the segment's own results.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from forgec.ir.program import ConstRef, Instr, Operand, Program

from .builder import Builder, Rule
from .outputs import outputs

__all__ = ["part_narrowing"]

_MULTIPLE = 16
"""Rows, and outputs of a part, are a multiple of this."""


def part_narrowing(segment: Program, count: int) -> list[Rule]:
    """The rule for one segment, with so many parts."""
    whole = {instr.results[0].id for instr in segment.main.body if _narrows(instr, count)}
    whole.difference_update(r.id for r in segment.main.results)

    def part(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        if instr.op != "linear" or instr.results[0].id not in whole:
            return None
        x, residual = instr.operands[0], instr.operands[3]
        result = instr.results[0].type
        width = result.shape[-1] // count
        parts = [
            build.op("linear", x, *outputs(build, instr, *bounds), None, **instr.attrs)
            for bounds in pairwise(range(0, result.shape[-1] + 1, width))
        ]
        y = build.op("concat", *parts, axis=result.rank - 1)
        return (y if residual is None else build.op("add", y, residual),)

    return [part]


def _narrows(instr: Instr, count: int) -> bool:
    if instr.op != "linear":
        return False
    weight, bias = instr.operands[1:3]
    if not isinstance(weight, ConstRef) or not isinstance(bias, ConstRef | None):
        return False
    outputs, inputs = weight.type.shape
    rows = instr.results[0].type.numel // outputs
    return 2 * outputs <= inputs and rows % _MULTIPLE == 0 and outputs % (count * _MULTIPLE) == 0
