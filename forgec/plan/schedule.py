"""Execution order: device-affinity list scheduling.

Among the instructions whose operands are ready, take one on the device just used; among those, the first in
program order. Only when none is left, go to the other device. With two devices this gives the fewest
transitions that any order starting on the same device can have: running everything ready before a switch can
only make more ready after it. Both starts are tried. With more devices it is a heuristic.

Kept besides def-use: for each state, the order of every write among the reads and writes. With one device the
program order is kept, as it is the one that the memory of a single arena was written for.
O(N log N) for N instructions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import groupby, pairwise

from ..ir.op import get
from ..ir.program import Instr, Program
from .plan import Segment
from .states import state_accesses

__all__ = ["order", "predecessors", "segments", "transitions"]


def transitions(body: Iterable[Instr]) -> int:
    """Adjacent instructions on different devices (the paper's delta); views do no work and are skipped."""
    devices = [instr.device for instr in body if not get(instr.op).view]
    return sum(a != b for a, b in pairwise(devices))


def segments(body: Iterable[Instr]) -> list[Segment]:
    """The maximal runs of instructions on one device, views included."""
    found: list[Segment] = []
    start = 0
    for device, run in groupby(instr.device or "" for instr in body):
        stop = start + sum(1 for _ in run)
        found.append(Segment(device, start, stop))
        start = stop
    return found


def order(program: Program) -> list[int]:
    """Indices of the instructions of a flat program, devices set, in the order to run them."""
    body = program.main.body
    devices = sorted({instr.device or "" for instr in body if not get(instr.op).view})
    if len(devices) < 2:
        return list(range(len(body)))
    before = predecessors(program)
    candidates = [_affinity_order(body, before, first) for first in devices]

    def switches(found: list[int]) -> tuple[int, int]:
        run = [body[i] for i in found]
        return transitions(run), len(segments(run))

    return min(candidates, key=switches)


def predecessors(program: Program) -> list[set[int]]:
    """For each instruction of a flat program the ones that must run before it, direct ones only."""
    body = program.main.body
    defined: dict[int, int] = {}
    before: list[set[int]] = []
    for index, instr in enumerate(body):
        before.append({defined[r.id] for r in instr.registers() if r.id in defined})
        defined.update((r.id, index) for r in instr.results)
    last_write: dict[str, int] = {}
    reads: dict[str, list[int]] = {}
    for index, touched in state_accesses(program).items():
        for name, writes in touched.items():
            if name in last_write:
                before[index].add(last_write[name])
            if writes:
                before[index].update(reads.pop(name, ()))
                last_write[name] = index
            else:
                reads.setdefault(name, []).append(index)
    return before


def _affinity_order(body: Sequence[Instr], before: Sequence[set[int]], first: str) -> list[int]:
    after: list[list[int]] = [[] for _ in body]
    waiting = [len(needed) for needed in before]
    for index, needed in enumerate(before):
        for i in needed:
            after[i].append(index)
    ready: dict[str, list[int]] = {instr.device or "": [] for instr in body}
    for index, count in enumerate(waiting):
        if not count:
            ready[body[index].device or ""].append(index)
    for queue in ready.values():
        heapify(queue)
    found: list[int] = []
    device = first
    while len(found) < len(body):
        if not ready[device]:
            device = min((name for name, queue in ready.items() if queue), key=lambda name: ready[name][0])
        index = heappop(ready[device])
        found.append(index)
        for i in after[index]:
            waiting[i] -= 1
            if not waiting[i]:
                heappush(ready[body[i].device or ""], i)
    return found
