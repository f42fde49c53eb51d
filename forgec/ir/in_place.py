"""From a structured program to the flat one that is planned: calls expanded, states used where they are.

Caches: *before* ``r0 = read_state s``, ``r1 = update_rows r0, new, position``, ``write_state s, r1``, where
nothing else reads r0. *After* ``write_rows s, new, position``, ``r1 = view_state s``: the rows go into the
state, and what read r1 reads the state. *Does not fire when* r0 is read otherwise, the state is read or
written otherwise, or r1 is a result of the program: the caller would see it change.

States that are written whole, as a recurrence's: *before* ``r0 = read_state s``, a copy, and ``write_state s,
r1`` at the end. *After* ``r0 = view_state s``, and the write as soon as r1 is there, nothing reads r0 any
more and no index can be out of range any more: a run that fails for what it is given changes no such state.
*Does not fire when* r0 or a view of it is a result or what is written.

Order is kept by what planning knows about states (``plan.states``). Linear.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from .inline import inline
from .old_and_new import split_caches
from .op import get
from .program import ConstRef, Instr, Program, Register, StateRef

__all__ = ["flatten", "look_at_states", "update_in_place"]


_CHECK_INDICES = {"embedding", "embedding_q", "gather", "take_along", "scatter", "update_rows", "write_rows"}


def flatten(program: Program, *, off_host: bool = False) -> Program:
    """The flat program of a structured one; ``off_host`` if it is planned for a device beside the host, which
    keeps no state."""
    flat = look_at_states(update_in_place(inline(program)))
    return split_caches(flat) if off_host else flat


def update_in_place(program: Program) -> Program:
    """A flat program whose caches are written in place; the program itself if there is none."""
    main = program.main
    users: dict[Register, list[Instr]] = {}
    for instr in main.body:
        for register in instr.registers():
            users.setdefault(register, []).append(instr)
    dropped: set[int] = set()
    updates: dict[int, StateRef] = {}
    for read, write in _read_and_written(main.body):
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


def look_at_states(program: Program) -> Program:
    """A flat program that reads states where they are; the program itself if none is written whole."""
    main = program.main
    aliases: dict[Register, Instr] = {}
    writes = {}
    for read, write in _read_and_written(main.body):
        aliases[read.results[0]] = read
        writes[id(read)] = write
    if not writes:
        return program
    instrs = _sunk(main.body, set(aliases))
    made: dict[Register, int] = {}
    needed: dict[int, int] = {}
    for index, instr in enumerate(instrs):
        made.update((r, index) for r in instr.results)
        looks_at = [aliases[r] for r in instr.registers() if r in aliases]
        needed.update((id(source), index) for source in looks_at)
        if looks_at and get(instr.op).view:
            aliases[instr.results[0]] = looks_at[0]
    checked = _last_check(instrs)
    kept = {id(aliases[r]) for r in main.results if r in aliases}
    after: dict[int, list[Instr]] = {}
    for key, write in writes.items():
        new = write.operands[1]
        if isinstance(new, Register) and new not in aliases and key not in kept:
            place = max(made.get(new, -1), needed.get(key, -1), checked)
            after.setdefault(place, []).append(write)
    body = list(after.get(-1, ()))
    moved = {id(instr) for group in after.values() for instr in group}
    looked = {key for key, write in writes.items() if id(write) in moved}
    for index, instr in enumerate(instrs):
        if id(instr) in looked:
            body.append(replace(instr, op="view_state"))
        elif id(instr) not in moved:
            body.append(instr)
        body += after.get(index, ())
    return replace(program, functions={program.entry: replace(main, body=body)})


def _sunk(body: Iterable[Instr], states: set[Register]) -> list[Instr]:
    """What is computed from the old value of a state and single numbers comes just before it is read: it need
    not be kept until then, and a kernel may do both."""
    waiting: dict[Register, Instr] = {}
    found: list[Instr] = []
    for instr in body:
        found += [waiting.pop(r) for r in dict.fromkeys(instr.registers()) if r in waiting]
        record, reads = get(instr.op), set(instr.registers())
        sinks = record.pure and not record.view and len(instr.results) == 1 and bool(reads & states)
        if sinks and all(r in states or r.type.numel == 1 for r in reads):
            waiting[instr.results[0]] = instr
        else:
            found.append(instr)
    return [*found, *waiting.values()]


def _last_check(body: Sequence[Instr]) -> int:
    """The last instruction that may fail for its inputs where none before it has; -1 if there is none."""
    known = set()
    last = -1
    for index, instr in enumerate(body):
        if instr.op == "aten":
            last = index
        if instr.op not in _CHECK_INDICES:
            continue
        indices = [x for x in instr.registers() if not x.type.dtype.is_float]
        key = (
            instr.op,
            tuple(indices),
            *(x.type.shape for x in instr.operands if isinstance(x, Register | ConstRef | StateRef)),
        )
        if indices and key not in known:
            known.add(key)
            last = index
    return last


def _read_and_written(body: Iterable[Instr]) -> Iterator[tuple[Instr, Instr]]:
    """The two instructions of states that are read whole, then written whole, and not touched otherwise."""
    accesses: dict[str, list[Instr]] = {}
    for instr in body:
        for x in instr.operands:
            if isinstance(x, StateRef):
                accesses.setdefault(x.name, []).append(instr)
    for touching in accesses.values():
        if [instr.op for instr in touching] == ["read_state", "write_state"]:
            yield touching[0], touching[1]
