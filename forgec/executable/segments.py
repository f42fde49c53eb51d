"""Segments of a plan as programs of their own, the form that backends compile and load.

Linear in the number of instructions, for all segments together.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.op import get
from ..ir.program import ConstRef, Instr, Program, Register, StateRef
from ..plan.plan import Plan

__all__ = ["segment_programs"]


def segment_programs(plan: Plan) -> list[Program]:
    """One flat program per segment, in order.

    Its parameters are the registers that it reads from outside, in order of first use. Its results are those
    of its own that a later segment reads or the program returns, in order of definition; in place of a view
    stands the register whose bytes it shows, so a result is never a view. States are the host's: what looks
    at one on another device is a parameter there.
    """
    main = plan.program.main
    home: dict[int, int] = {r.id: -1 for r in main.params}
    owner: dict[int, Register | None] = {r.id: r for r in main.params}
    leaving: set[Register | None] = {None}
    entering: list[dict[Register, None]] = [{} for _ in plan.segments]
    for number, segment in enumerate(plan.segments):
        for instr in main.body[segment.start : segment.stop]:
            for r in instr.registers():
                if home[r.id] != number:
                    entering[number][r] = None
                    leaving.add(owner[r.id])
            if _is_input(instr, segment.device, plan.host):
                entering[number][instr.results[0]] = None
            source = instr.operands[0] if get(instr.op).view else None
            for r in instr.results:
                home[r.id] = number
                owner[r.id] = (
                    r if source is None else owner[source.id] if isinstance(source, Register) else None
                )
    leaving.update(owner[r.id] for r in main.results)
    programs = []
    for number, segment in enumerate(plan.segments):
        body = [
            instr
            for instr in main.body[segment.start : segment.stop]
            if not _is_input(instr, segment.device, plan.host)
        ]
        used = {x.name for instr in body for x in instr.operands if isinstance(x, ConstRef)}
        function = replace(
            main,
            params=tuple(entering[number]),
            param_names=(),
            body=body,
            results=tuple(r for instr in body for r in instr.results if r in leaving),
            result_names=(),
        )
        constants = {name: c for name, c in plan.program.constants.items() if name in used}
        programs.append(
            Program(plan.program.entry, {plan.program.entry: function}, constants, plan.program.states)
        )
    return programs


def _is_input(instr: Instr, device: str, host: str) -> bool:
    """True for a state that is looked at where the states are not."""
    return device != host and get(instr.op).view and isinstance(instr.operands[0], StateRef)
