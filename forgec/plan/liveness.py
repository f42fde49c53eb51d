"""Storages and their live intervals over the flat, ordered program.

A *storage* is the bytes of a register that is no view; views lie in the storage of their operand and extend
its life. Its live interval [start, end] is closed: from the instruction that writes it to the last one that
reads it through any register. Inputs of the program start at -1, results of the program end after the last
instruction. Making a view reads nothing. Views of constants and states have no storage here.

A device other than the host may run a segment as a whole, reading inputs and writing results in any order.
There, what a segment reads from outside lives to the segment's end, and what outlives the segment lives from
its start. Linear.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import PlanError
from ..ir.layout import Layout, view_layout
from ..ir.op import get
from ..ir.program import ConstRef, Instr, Program, Register, StateRef
from .plan import HOST, Segment
from .schedule import segments

__all__ = ["Liveness", "Storage", "analyse"]


@dataclass(slots=True)
class Storage:
    """Bytes of ``register``, in the arena of ``device``, live in the closed interval [start, end]."""

    register: Register
    device: str
    nbytes: int
    start: int
    end: int


@dataclass(frozen=True)
class Liveness:
    """``of`` gives the index of a register's storage by register id; views of constants and states have none.

    ``whole`` has the ids of the registers that cover their storage in row-major order, ``counts`` the number
    of registers per device.
    """

    storages: list[Storage]
    of: dict[int, int]
    whole: set[int]
    counts: dict[str, int]


def analyse(program: Program, host: str) -> Liveness:
    """Storages of a flat program whose instructions have devices; inputs of the program are on ``host``."""
    main = program.main
    storages: list[Storage] = []
    of: dict[int, int] = {}
    whole: set[int] = set()
    layouts: dict[int, Layout] = {}
    counts = {host: len(main.params)}

    def own(r: Register, device: str, start: int) -> None:
        of[r.id] = len(storages)
        whole.add(r.id)
        storages.append(Storage(r, device, r.type.nbytes, start, start))

    for r in main.params:
        own(r, host, -1)
    spans = _whole_segments(main.body)
    for index, instr in enumerate(main.body):
        device = instr.device or host
        counts[device] = counts.get(device, 0) + len(instr.results)
        if get(instr.op).view:
            result = instr.results[0]
            layout = _view(instr, index, layouts)
            layouts[result.id] = layout
            if isinstance(layout.base, Register):
                of[result.id] = of[layout.base.id]
                covers = result.type.numel == layout.base.type.numel
                if covers and layout.offset == 0 and layout.is_contiguous:
                    whole.add(result.id)
            continue
        for x in instr.operands:
            if isinstance(x, Register):
                s = of.get(x.id)
                if s is not None:
                    outside = index in spans and storages[s].start < spans[index].start
                    storages[s].end = spans[index].stop - 1 if outside else index
        for r in instr.results:
            own(r, device, index)
    for r in main.results:
        if r.id in of:
            storages[of[r.id]].end = len(main.body)
    for storage in storages:
        span = spans.get(storage.start)
        if span and storage.end >= span.stop:
            storage.start = span.start
    return Liveness(storages, of, whole, counts)


def _whole_segments(body: list[Instr]) -> dict[int, Segment]:
    """The segment of each instruction that is not on the host."""
    return {i: s for s in segments(body) if s.device not in (HOST, "") for i in range(s.start, s.stop)}


def _view(instr: Instr, index: int, layouts: dict[int, Layout]) -> Layout:
    source = instr.operands[0]
    if not isinstance(source, Register | ConstRef | StateRef):
        raise PlanError(f"{instr.op} of {source} is no view", f"instruction {index}")
    known = layouts.get(source.id) if isinstance(source, Register) else None
    layout = view_layout(instr, known or Layout.contiguous(source))
    if layout is None:
        raise PlanError(
            f"{instr.results[0]}: {instr.op} of {source} needs a copy, its strides allow no view",
            f"instruction {index}",
        )
    return layout
