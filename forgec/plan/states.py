"""Which instructions touch which states, and what depends on where rows are written.

A state is read by an operand that is the state itself or a view of it, and written by an impure instruction
that takes it directly (all but ``read_state``): scheduling and replay keep that order. Linear.
"""

from __future__ import annotations

from ..ir.op import get
from ..ir.program import Instr, Program, Register, StateRef

__all__ = ["holds_state", "positional", "state_accesses", "state_roots"]


def holds_state(instr: Instr) -> bool:
    """True for what takes a state directly, not through a view: it runs where the state is, on the host."""
    return not get(instr.op).view and any(isinstance(x, StateRef) for x in instr.operands)


def positional(program: Program) -> set[int]:
    """Indices of the instructions, views apart, that compute from the position of new rows and other single
    integers of the caller (how many tokens are real, how long the text is) alone: positions, masks, rotary
    tables.

    They are for the host, which has integers and floats of full width: on a device that computes in 16 bits
    positions over 2048 would fall together.
    """
    body = program.main.body
    made = {r: instr for instr in body for r in instr.results}
    params = set(program.main.params)
    pending = [x for i in body if i.op == "write_rows" for x in i.operands[2:] if isinstance(x, Register)]
    known: set[Register] = set()
    while pending:
        r = pending.pop()
        if r in params:
            known.add(r)
        elif r in made:
            pending += made[r].registers()
    found: set[int] = set()
    known.update(r for r in params if known and not r.type.rank and not r.type.dtype.is_float)
    for index, instr in enumerate(body if known else ()):
        reads = list(instr.registers())
        if reads and known.issuperset(reads) and not holds_state(instr):
            known.update(instr.results)
            if not get(instr.op).view:
                found.add(index)
    return found


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
