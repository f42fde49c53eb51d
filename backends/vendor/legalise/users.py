"""Who reads what in a segment."""

from __future__ import annotations

from forgec.ir.program import Instr, Program

__all__ = ["readers"]


def readers(segment: Program) -> dict[int, list[Instr | None]]:
    """By register: the instructions that read it, None for the segment's result."""
    found: dict[int, list[Instr | None]] = {}
    for instr in segment.main.body:
        for register in instr.registers():
            found.setdefault(register.id, []).append(instr)
    for register in segment.main.results:
        found.setdefault(register.id, []).append(None)
    return found
