"""From a flat program to the planned one by an explicit list of steps, each an instruction on a device.

A plan changes a flat program in three ways: order, devices, and transfers. A value that another device
reads is copied there once by a ``copy`` instruction on the reader's device; a view of it is taken again on
the copy. So a register has one *version* per device that holds it. The first version keeps the register's
number, later ones are numbered from the flat program's count on, in the order of their steps.

Invariant, checked on every replay so that a plan from a file needs no trust: every instruction but a view
runs exactly once, reads versions that exist on its device, and touches each state between the same writes as
in the flat program. Linear in the number of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..errors import PlanError
from ..ir.op import get
from ..ir.program import Instr, Operand, Program, Register
from .states import state_accesses

__all__ = ["Copy", "Run", "Step", "replay", "transfer_steps"]


@dataclass(frozen=True, slots=True)
class Run:
    """Instruction ``index`` of the flat program on a device."""

    index: int
    device: str


@dataclass(frozen=True, slots=True)
class Copy:
    """Transfer of the flat program's register ``register`` to a device."""

    register: int
    device: str


Step = Run | Copy


def transfer_steps(program: Program, devices: Sequence[str], host: str) -> list[Step]:
    """Steps in program order, with transfers just before their first reader.

    ``devices`` has one device per instruction; those of views are not read: a view is taken where its readers
    are, when the first of them needs it, and left out if nothing reads it.
    """
    body = program.main.body
    defined = {r.id: i for i, instr in enumerate(body) for r in instr.results}
    views = [get(instr.op).view for instr in body]
    present = {(r.id, host) for r in program.main.params}
    steps: list[Step] = []

    def bring(register: int, device: str) -> None:
        chain: list[Step] = []
        while (register, device) not in present:
            present.add((register, device))
            index = defined.get(register)
            if index is None or not views[index]:
                chain.append(Copy(register, device))
                break
            chain.append(Run(index, device))
            source = body[index].operands[0]
            if not isinstance(source, Register):
                break
            register = source.id
        steps.extend(reversed(chain))

    for index, (instr, device) in enumerate(zip(body, devices, strict=True)):
        if views[index]:
            continue
        for r in instr.registers():
            bring(r.id, device)
        steps.append(Run(index, device))
        present.update((r.id, device) for r in instr.results)
    for r in program.main.results:
        bring(r.id, host)
    return steps


def replay(program: Program, steps: Iterable[Step], host: str) -> Program:
    """The planned program, devices set, offsets not yet; its inputs and results are on ``host``.

    :class:`PlanError` if the steps break the invariant.
    """
    flat = program.main
    registers = {r.id: r for r in flat.params}
    registers.update((r.id, r) for instr in flat.body for r in instr.results)
    versions: dict[tuple[int, str], Register] = {(r.id, host): r for r in flat.params}
    home: dict[int, Register] = {r.id: r for r in flat.params}
    count = max(registers, default=-1) + 1
    states = _StateClock(program)
    ran = bytearray(len(flat.body))
    body: list[Instr] = []

    def define(old: Register, device: str, place: str) -> Register:
        nonlocal count
        if (old.id, device) in versions:
            raise PlanError(f"r{old.id} is defined twice on {device}", place)
        new = old
        if old.id in home:
            new = Register(count, old.type)
            count += 1
        else:
            home[old.id] = old
        versions[old.id, device] = new
        return new

    for number, step in enumerate(steps):
        place = f"step {number} of the plan"
        device = step.device
        if isinstance(step, Copy):
            source = home.get(step.register)
            if source is None:
                raise PlanError(f"r{step.register} is copied before it is computed", place)
            body.append(
                Instr("copy", (source,), (define(registers[step.register], device, place),), device=device)
            )
            continue
        if not 0 <= step.index < len(flat.body):
            raise PlanError(f"the flat program has no instruction {step.index}", place)
        instr = flat.body[step.index]
        if ran[step.index] and not get(instr.op).view:
            raise PlanError(f"instruction {step.index} ({instr.op}) runs twice", place)
        ran[step.index] = 1
        states.check(step.index, place)
        operands: list[Operand] = []
        for x in instr.operands:
            if isinstance(x, Register):
                version = versions.get((x.id, device))
                if version is None:
                    raise PlanError(f"{instr.op} on {device} reads r{x.id}, which is not there", place)
                operands.append(version)
            else:
                operands.append(x)
        results = tuple([define(r, device, place) for r in instr.results])
        body.append(Instr(instr.op, tuple(operands), results, instr.attrs, instr.source, device))
    for index, done in enumerate(ran):
        if not done and not get(flat.body[index].op).view:
            raise PlanError(f"instruction {index} ({flat.body[index].op}) never runs", "the plan")
    for r in flat.results:
        if (r.id, host) not in versions:
            raise PlanError(f"result r{r.id} is never computed on {host}", "the plan")
    main = replace(flat, body=body, results=tuple(versions[r.id, host] for r in flat.results))
    return replace(program, functions={program.entry: main})


class _StateClock:
    """Counts the writes to each state; an access must see as many before it as in the flat program."""

    def __init__(self, program: Program) -> None:
        self.accesses = state_accesses(program)
        self.expected: dict[tuple[int, str], int] = {}
        self.writes = dict.fromkeys(program.states, 0)
        for index, touched in self.accesses.items():
            for name, writes in touched.items():
                self.expected[index, name] = self.writes[name]
                self.writes[name] += writes
        self.writes = dict.fromkeys(program.states, 0)

    def check(self, index: int, place: str) -> None:
        for name, writes in self.accesses.get(index, {}).items():
            if self.writes[name] != self.expected[index, name]:
                raise PlanError(f"instruction {index} touches state {name} out of order", place)
            self.writes[name] += writes
