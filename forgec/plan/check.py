"""An independent checker of plans: it walks the program and simulates who owns which bytes.

It shares no code with liveness, in-place merging or allocation. Every byte range of an arena has as owner
the register that was written there last. An instruction may read a register only where all bytes from its
first to its last still belong to the storage that it looks at, and write over an operand only where that is
legal in place. Views are made by numpy itself on memory that is never touched. The rules:

 1. every instruction has a device and reads registers of that device; only ``copy`` reads from another
 2. registers are defined once, before their uses
 3. a register with bytes of its own has an aligned offset inside its arena; a view has none
 4. what is read was not overwritten since it was written
 5. results do not overlap each other
 6. a result overlaps an operand only where its op allows that, element on element
 7. off the host, what a segment gives does not overlap what it takes
 8. results of the program are on the host, unharmed at the end
 9. states are on the host: other devices look at them, and nothing more
10. segments, transitions, register and buffer counts, and the bound on the arena are true

Time O(N (L + log L)) for N instructions and L live registers.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from ..errors import PlanError
from ..ir.op import get
from ..ir.program import Instr, Register, StateRef
from .plan import ALIGNMENT, HOST, Plan

__all__ = ["check_plan"]


def check_plan(plan: Plan) -> None:
    """:class:`PlanError` naming the instruction and the rule that the plan breaks."""
    _Checker(plan).run()


@dataclass(frozen=True)
class _Value:
    """Where a register is: ``view`` is its array in untouched memory, whose first byte is ``start`` in the
    arena; None for a view of a constant or state, which has no place in an arena."""

    device: str
    owner: int
    start: int
    view: np.ndarray | None


class _Memory:
    """Byte ranges of one arena and their owners: ascending starts, each range up to the next start."""

    def __init__(self) -> None:
        self.starts = [0]
        self.owners = [-1]

    def write(self, start: int, stop: int, owner: int) -> None:
        if start == stop:
            return
        first, last = bisect_left(self.starts, start), bisect_right(self.starts, stop)
        after = self.owners[last - 1]
        self.starts[first:last] = [start, stop]
        self.owners[first:last] = [owner, after]

    def intruder(self, start: int, stop: int, owner: int) -> int | None:
        """Another owner of a byte in the range, or None."""
        if start == stop:
            return None
        first, last = bisect_right(self.starts, start) - 1, bisect_left(self.starts, stop)
        return next((o for o in self.owners[first:last] if o != owner), None)


class _Checker:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.main = plan.program.main
        self.values: dict[int, _Value] = {}
        self.memory = {device: _Memory() for device in plan.arenas}
        self.registers = dict.fromkeys(plan.arenas, 0)
        self.places: dict[str, set[int]] = {device: set() for device in plan.arenas}
        self.place = "the inputs"
        largest = max((r.type.nbytes for r in plan.offsets), default=0)
        self.untouched = np.empty(largest, np.uint8)

    def run(self) -> None:
        plan = self.plan
        if plan.host not in plan.arenas:
            raise self.error(1, f"host {plan.host!r} has no arena")
        for r in self.main.params:
            self.own(r, plan.host)
        self.intact(self.main.params)
        for index, instr in enumerate(self.main.body):
            self.place = f"instruction {index}: {_text(instr)}"
            if instr.device not in plan.arenas:
                raise self.error(1, f"device {instr.device!r} has no arena")
            self.step(instr, instr.device)
        self.place = "the results"
        for r in self.main.results:
            value = self.value(r)
            if value.device != plan.host:
                raise self.error(8, f"result {r} is on {value.device}, not on {plan.host}")
            self.unharmed(r, value)
        self.segments()
        self.counts()

    def error(self, rule: int, what: str) -> PlanError:
        return PlanError(f"plan breaks rule {rule}: {what}", self.place)

    def value(self, r: Register) -> _Value:
        if r.id not in self.values:
            raise self.error(2, f"{r} is used before it is defined")
        return self.values[r.id]

    def step(self, instr: Instr, device: str) -> None:
        record = get(instr.op)
        for x in instr.operands:
            if isinstance(x, StateRef) and device != self.plan.host and not record.view:
                raise self.error(9, f"{instr.op} takes state {x.name} on {device}")
            if isinstance(x, Register):
                value = self.value(x)
                if value.device != device and instr.op != "copy":
                    raise self.error(1, f"{x} is on {value.device}, not on {device}")
        if record.view:
            self.look(instr, device)
            return
        for r in instr.registers():
            self.unharmed(r, self.values[r.id])
        for r in instr.results:
            self.own(r, device)
        for r in instr.results:
            for k, x in enumerate(instr.operands):
                if isinstance(x, Register) and self.overlap(r, x):
                    self.in_place(r, x, k in record.inplace)
        self.intact(instr.results)
        if instr.offsets != tuple(self.plan.offsets.get(r) for r in instr.results):
            raise self.error(3, f"the instruction says {instr.offsets}, the plan another place")

    def own(self, r: Register, device: str) -> None:
        """A register with bytes of its own is written."""
        arena = self.plan.arenas[device]
        offset = self.plan.offsets.get(r)
        self.define(r, device)
        if offset is None:
            raise self.error(3, f"{r} has no offset")
        if offset % ALIGNMENT or offset < 0 or offset + r.type.nbytes > arena.nbytes:
            raise self.error(3, f"{r} at {offset}, {r.type.nbytes} bytes, in an arena of {arena.nbytes}")
        view: np.ndarray = np.ndarray(r.type.shape, r.type.dtype.numpy, self.untouched[: r.type.nbytes])
        self.values[r.id] = _Value(device, r.id, offset, view)
        self.memory[device].write(offset, offset + r.type.nbytes, r.id)
        if r.type.nbytes:
            self.places[device].add(offset)

    def define(self, r: Register, device: str) -> None:
        if r.id in self.values:
            raise self.error(2, f"{r} is defined twice")
        self.registers[device] += 1

    def look(self, instr: Instr, device: str) -> None:
        """A view: numpy says which bytes it covers."""
        (r,), source = instr.results, instr.operands[0]
        self.define(r, device)
        if r in self.plan.offsets or instr.offsets != (None,):
            raise self.error(3, f"{r} is a view and has an offset")
        base = self.values[source.id] if isinstance(source, Register) else None
        if base is None or base.view is None:
            self.values[r.id] = _Value(device, r.id, 0, None)
            return
        if base.device != device:
            raise self.error(1, f"a view on {device} of {source} on {base.device}")
        try:
            view = _numpy_view(instr.op, base.view, {**get(instr.op).attrs, **instr.attrs})
        except (ValueError, IndexError) as error:
            raise self.error(3, f"{r} cannot be a view of {source}: {error}") from None
        moved = byte_bounds(view)[0] - byte_bounds(base.view)[0] if view.size and base.view.size else 0
        self.values[r.id] = _Value(device, base.owner, base.start + moved, view)

    def span(self, value: _Value) -> tuple[int, int]:
        """Bytes of the arena from the first to the last that a register covers."""
        if value.view is None or not value.view.size:
            return value.start, value.start
        low, high = byte_bounds(value.view)
        return value.start, value.start + high - low

    def unharmed(self, r: Register, value: _Value) -> None:
        intruder = self.memory[value.device].intruder(*self.span(value), value.owner)
        if intruder is not None:
            raise self.error(4, f"{r} is read after r{intruder} was written over it")

    def intact(self, written: tuple[Register, ...]) -> None:
        for r in written:
            value = self.values[r.id]
            intruder = self.memory[value.device].intruder(*self.span(value), value.owner)
            if intruder is not None:
                raise self.error(5, f"{r} and r{intruder} are written to the same bytes")

    def overlap(self, a: Register, b: Register) -> bool:
        left, right = self.values[a.id], self.values[b.id]
        (low, high), (start, stop) = self.span(left), self.span(right)
        return left.device == right.device and low < stop and start < high

    def in_place(self, r: Register, x: Register, allowed: bool) -> None:
        old = self.values[x.id].view
        assert old is not None
        same = self.span(self.values[r.id]) == self.span(self.values[x.id]) and old.flags.c_contiguous
        if not (allowed and same and old.size == r.type.numel and old.itemsize == r.type.dtype.itemsize):
            raise self.error(6, f"{r} is written over {x} while that is read")

    def segments(self) -> None:
        """Segments are the maximal runs; those off the host keep what they take apart from what they give."""
        body = self.main.body
        at, previous = 0, None
        for segment in self.plan.segments:
            self.place = f"segment {segment.start} to {segment.stop} on {segment.device}"
            devices = {instr.device for instr in body[segment.start : segment.stop]}
            empty = segment.stop <= at or segment.stop > len(body)
            if segment.start != at or empty or devices != {segment.device} or segment.device == previous:
                raise self.error(10, f"it is not the maximal run from instruction {at}")
            at, previous = segment.stop, segment.device
        if at != len(body):
            raise self.error(10, f"segments end at instruction {at} of {len(body)}")
        root, written, last_read = self.uses()
        for segment in self.plan.segments:
            self.place = f"segment {segment.start} to {segment.stop} on {segment.device}"
            if segment.device == HOST:
                continue
            inside = [instr for instr in body[segment.start : segment.stop] if not get(instr.op).view]
            read = {root[x.id] for instr in inside for x in instr.registers() if root[x.id] is not None}
            taken = [r for r in read if r and written[r.id] < segment.start]
            given = [r for instr in inside for r in instr.results if last_read.get(r.id, -1) >= segment.stop]
            for x in taken:
                for r in given:
                    if self.values[x.id].device == segment.device and self.overlap(x, r):
                        raise self.error(7, f"it gives {r} over {x}, which it takes")

    def uses(self) -> tuple[dict[int, Register | None], dict[int, int], dict[int, int]]:
        """By register id: what it is a view of in the end, where it is written, where last read."""
        root: dict[int, Register | None] = {r.id: r for r in self.main.params}
        written = {r.id: -1 for r in self.main.params}
        last_read: dict[int, int] = {}
        readers = [(i, instr.registers()) for i, instr in enumerate(self.main.body) if not get(instr.op).view]
        for index, instr in enumerate(self.main.body):
            for r in instr.results:
                root[r.id], written[r.id] = r, index
                if get(instr.op).view:
                    source = instr.operands[0]
                    root[r.id] = root[source.id] if isinstance(source, Register) else None
        for index, reads in [*readers, (len(self.main.body), iter(self.main.results))]:
            for x in reads:
                owner = root[x.id]
                if owner is not None:
                    last_read[owner.id] = index
        return root, written, last_read

    def counts(self) -> None:
        """The reported numbers against a count of their own."""
        self.place = "the plan's numbers"
        plan = self.plan
        devices = [instr.device for instr in self.main.body if not get(instr.op).view]
        if plan.transitions != sum(a != b for a, b in pairwise(devices)):
            raise self.error(10, f"{plan.transitions} transitions are not what the order has")
        owners = {i for i, value in self.values.items() if value.view is not None and value.owner == i}
        if {r.id for r in plan.offsets} != owners:
            raise self.error(3, "there are offsets of registers that the program has not")
        for device, arena in plan.arenas.items():
            counted = (self.registers[device], len(self.places[device]))
            if (arena.registers, arena.buffers) != counted:
                raise self.error(10, f"{device} has {counted} registers and buffers, not as in {arena}")
            if not 0 <= arena.lower_bound <= arena.nbytes <= arena.no_reuse:
                raise self.error(10, f"the sizes of {device} are not in order: {arena}")


def _numpy_view(op: str, x: np.ndarray, attrs: dict[str, Any]) -> np.ndarray:
    if op == "transpose":
        return x.transpose(attrs["perm"])
    if op == "reshape":
        return np.reshape(x, attrs["shape"], copy=False)
    if op == "expand":
        return np.broadcast_to(x, attrs["shape"])
    if op == "slice":
        where = slice(attrs["start"], attrs["stop"], attrs["step"])
        return x[(slice(None),) * (attrs["axis"] % x.ndim) + (where,)]
    raise ValueError(f"{op} is not known to be a view")


def _text(instr: Instr) -> str:
    left = ", ".join(map(str, instr.results))
    right = ", ".join("none" if x is None else str(getattr(x, "value", x)) for x in instr.operands)
    return f"{left} = {instr.op} {right}" if left else f"{instr.op} {right}"
