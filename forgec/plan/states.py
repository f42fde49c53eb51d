"""Which instructions touch which states: the order that scheduling and replay must keep.

A state is read by an operand that is the state itself or a view of it, and written by an impure instruction
that takes it directly (all but ``read_state``). Linear.
"""

from __future__ import annotations

from ..ir.op import get
from ..ir.program import Program, Register, StateRef

__all__ = ["state_accesses", "state_roots"]


def state_roots(program: Program) -> dict[int, str]:
    """The state whose bytes a register is a view of, by register id."""
    roots: dict[int, str] = {}
    for instr in program.main.body if program.states else ():
        if get(instr.op).view:
            source = instr.operands[0]
            if isinstance(source, StateRef):
                roots[instr.results[0].id] = source.name
            elif isinstance(source, Register) and source.id in roots:
                roots[instr.results[0].id] = roots[source.id]
    return roots


def state_accesses(program: Program) -> dict[int, dict[str, bool]]:
    """States that each instruction touches, by its index, with True where it writes; views touch nothing."""
    accesses: dict[int, dict[str, bool]] = {}
    roots = state_roots(program)
    for index, instr in enumerate(program.main.body if program.states else ()):
        record = get(instr.op)
        if record.view:
            continue
        writes = not record.pure and instr.op != "read_state"
        touched: dict[str, bool] = {}
        for x in instr.operands:
            if isinstance(x, StateRef):
                touched[x.name] = writes
            elif isinstance(x, Register) and x.id in roots:
                touched.setdefault(roots[x.id], False)
        if touched:
            accesses[index] = touched
    return accesses
