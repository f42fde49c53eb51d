"""From a segment to the files that the compiler takes: legalise, emit, serialise.

Registers are numbered anew from 0 first, so that equal segments of a model, or of two models, are equal files
and meet in the compile cache.
"""

from __future__ import annotations

from dataclasses import replace

from forgec.ir.program import Operand, Program, Register

from ..base import Constants
from .compiler import Model
from .emit import emit
from .rules import legalise_segment

__all__ = ["emitted", "renumbered"]


def emitted(segment: Program, constants: Constants, platform: str, what: str) -> Model:
    """The model of a segment, ready for the compiler; ``sources`` are by the registers in its names."""
    legal = legalise_segment(renumbered(segment), platform)
    model = Model.of(emit(legal.program, legal.values(constants)), what)
    body = legal.program.main.body
    sources = {f"r{r.id}": str(instr.source) for instr in body for r in instr.results if instr.source}
    return replace(model, sources=sources)


def renumbered(segment: Program) -> Program:
    """The segment with registers numbered in order of definition."""
    main = segment.main
    numbers: dict[Operand, Operand] = {}

    def number(register: Register) -> Register:
        numbers[register] = found = Register(len(numbers), register.type)
        return found

    params = tuple(number(r) for r in main.params)
    body = []
    for instr in main.body:
        operands = tuple(numbers.get(x, x) if isinstance(x, Register) else x for x in instr.operands)
        body.append(replace(instr, operands=operands, results=tuple(number(r) for r in instr.results)))
    results = tuple(r for r in (numbers[x] for x in main.results) if isinstance(r, Register))
    function = replace(main, params=params, body=body, results=results)
    return replace(segment, functions={segment.entry: function})
