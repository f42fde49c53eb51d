"""From a structured program to the flat one that is planned and run: calls expanded, caches written in place.

*Before* ``r0 = read_state s``, ``r1 = update_rows r0, new, position``, ``write_state s, r1``, where nothing
else reads r0.
*After* ``write_rows s, new, position``, ``r1 = view_state s``: the rows go into the state, and what read r1
reads the state. *Does not fire when* r0 is read otherwise, the state is read or written otherwise, or r1 is a
result of the program: the caller would see it change.

Order is kept by what planning knows about states (``plan.states``). Linear.
"""

from __future__ import annotations

from dataclasses import replace

from .inline import inline
from .old_and_new import split_caches
from .program import Instr, Program, Register, StateRef

__all__ = ["flatten", "update_in_place"]


def flatten(program: Program, *, off_host: bool = False) -> Program:
    """The flat program of a structured one; ``off_host`` if it is planned for a device beside the host, which
    keeps no state."""
    flat = update_in_place(inline(program))
    return split_caches(flat) if off_host else flat


def update_in_place(program: Program) -> Program:
    """A flat program whose caches are written in place; the program itself if there is none."""
    main = program.main
    users: dict[Register, list[Instr]] = {}
    accesses: dict[str, list[Instr]] = {}
    for instr in main.body:
        for register in instr.registers():
            users.setdefault(register, []).append(instr)
        for x in instr.operands:
            if isinstance(x, StateRef):
                accesses.setdefault(x.name, []).append(instr)
    dropped: set[int] = set()
    updates: dict[int, StateRef] = {}
    for touching in accesses.values():
        if [instr.op for instr in touching] != ["read_state", "write_state"]:
            continue
        read, write = touching
        (old,), (state, new) = read.results, write.operands
        update = users.get(old, [None])[0]
        if (
            update is not None
            and update.op == "update_rows"
            and users[old] == [update]
            and update.operands.count(old) == 1
            and update.operands[0] == old
            and update.results[0] == new
            and old not in main.results
            and new not in main.results
            and isinstance(state, StateRef)
        ):
            dropped |= {id(read), id(write)}
            updates[id(update)] = state
    if not updates:
        return program
    body: list[Instr] = []
    for instr in main.body:
        if id(instr) in updates:
            state = updates[id(instr)]
            body.append(replace(instr, op="write_rows", operands=(state, *instr.operands[1:]), results=()))
            body.append(replace(instr, op="view_state", operands=(state,)))
        elif id(instr) not in dropped:
            body.append(instr)
    return replace(program, functions={program.entry: replace(main, body=body)})
