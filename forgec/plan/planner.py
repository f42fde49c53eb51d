"""The plan of a flat program: placement, transfers, order, storages, offsets.

For one device every step is linear or N log N in the number of instructions, and the program order is kept.
The plan is not checked here; ``plan.check`` does that with code of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..backends.base import Backend
from ..errors import TargetError
from ..ir.program import Program, Register
from . import inplace, liveness, placement, schedule
from .cost import CostModel
from .linear_scan import Interval, lower_bound, pack
from .plan import ALIGNMENT, HOST, ArenaPlan, Plan
from .replay import Copy, Run, Step, replay, transfer_steps

__all__ = ["allocate", "make_plan"]


def make_plan(
    program: Program, *, backends: Sequence[Backend], target: str, cost: CostModel | None = None
) -> Plan:
    """Plan a flat program for the device named ``target``, with the host for what the target cannot or should
    not run. Backends beyond these two are not used.

    :class:`TargetError` if the target is not among the backends or not available, :class:`PlanError` if no
    device can run some instruction.
    """
    by_name = {backend.name: backend for backend in backends}
    if target not in by_name:
        raise TargetError(f"there is no target {target!r}", hint=f"one of: {', '.join(sorted(by_name))}")
    host = HOST if HOST in by_name else target
    for name in dict.fromkeys((target, host)):
        missing = by_name[name].available()
        if missing:
            raise TargetError(f"target {name} is not available: {missing}")
    placed = placement.place(program, by_name[target], by_name[host], cost or CostModel.load())
    steps: list[Step]
    if target == host:
        steps = [Run(index, host) for index in range(len(program.main.body))]
        planned = replay(program, steps, host)
        naive = 0
    else:
        steps = transfer_steps(program, placed.devices, host)
        planned = replay(program, steps, host)
        naive = schedule.transitions(planned.main.body)
        steps = [steps[i] for i in schedule.order(planned)]
        planned = replay(program, steps, host)
    offsets, arenas = allocate(planned, host)
    body = planned.main.body
    for instr in body:
        instr.offsets = tuple([offsets.get(r) for r in instr.results])
    copied = [instr.results[0] for s, instr in zip(steps, body, strict=True) if isinstance(s, Copy)]
    return Plan(
        program=planned,
        segments=schedule.segments(body),
        offsets=offsets,
        arenas=arenas,
        transitions=schedule.transitions(body),
        transitions_naive=naive,
        reasons={
            i: placed.reasons[s.index]
            for i, s in enumerate(steps)
            if isinstance(s, Run) and s.index in placed.reasons
        },
        target=target,
        host=host,
        steps=steps,
        cost_us=placed.cost_us,
        cost_naive_us=placed.naive_us,
        transfers=len(copied),
        transfer_bytes=sum(r.type.nbytes for r in copied),
    )


def allocate(program: Program, host: str) -> tuple[dict[Register, int], dict[str, ArenaPlan]]:
    """Offsets of all registers with bytes of their own, and one arena per device, of an ordered program."""
    live = liveness.analyse(program, host)
    blocks, block_of = inplace.merge(program, live)
    own_bytes = dict.fromkeys(live.counts, 0)
    for storage in live.storages:
        own_bytes[storage.device] += _aligned(storage.nbytes)
    place_of = [0] * len(blocks)
    arenas: dict[str, ArenaPlan] = {}
    for device, registers in live.counts.items():
        mine = [i for i, block in enumerate(blocks) if block.device == device]
        intervals = [Interval(_aligned(blocks[i].nbytes), blocks[i].start, blocks[i].end) for i in mine]
        found, nbytes = pack(intervals)
        for i, offset in zip(mine, found, strict=True):
            place_of[i] = offset
        places = {offset for x, offset in zip(intervals, found, strict=True) if x.nbytes}
        arenas[device] = ArenaPlan(nbytes, lower_bound(intervals), own_bytes[device], registers, len(places))
    offsets = {s.register: place_of[block] for s, block in zip(live.storages, block_of, strict=True)}
    return offsets, arenas


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
