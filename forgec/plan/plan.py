"""The plan: for the flat program, a device and an order per instruction and a byte offset per register."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ir.op import get
from ..ir.program import Program, Register
from .replay import Step

__all__ = ["ALIGNMENT", "BY_COST", "HOST", "ArenaPlan", "Plan", "Reason", "Segment"]

HOST = "cpu"
"""The device that has a program's inputs and results wherever it is one of the devices, and the only one that
runs a segment instruction by instruction; others may run theirs in any order."""

BY_COST = "cost"
"""The code of the reason for what the requested device could run, but the program is faster so: a choice, no
refusal."""

ALIGNMENT = 64
"""Bytes; every buffer starts at a multiple, one cache line and one AVX-512 register."""


@dataclass(frozen=True)
class ArenaPlan:
    """One device's arena.

    ``lower_bound`` is the largest sum of bytes live at one instruction, with in-place results on their
    operand's bytes; no placement can be smaller. ``no_reuse`` is the sum over all registers that have bytes
    of their own, which is the arena that a planner without reuse and without in-place results would need.
    Both count every register rounded up to ``ALIGNMENT``. ``registers`` counts the device's registers, views
    included. ``buffers`` counts the physical buffers that they take turns in: the distinct start offsets
    among the registers that are not views (those of no bytes apart).
    """

    nbytes: int
    lower_bound: int
    no_reuse: int
    registers: int
    buffers: int

    @property
    def rho(self) -> float:
        """Share of registers that need no buffer of their own: 1 - buffers / registers."""
        return 1 - self.buffers / self.registers if self.registers else 0.0


@dataclass(frozen=True)
class Reason:
    """Why an instruction is not on the requested device.

    ``code`` is a stable word: what the backend's refusal gives, ``state`` (tied to a refused instruction by a
    shared state), ``BY_COST`` (the device could, but the program is faster so), ``aten`` (PyTorch computes
    it).
    """

    code: str
    sentence: str
    fix: str

    def __str__(self) -> str:
        return f"{self.code}: {self.sentence}; {self.fix}"


@dataclass(frozen=True)
class Segment:
    """A maximal run of instructions [start, stop) on one device."""

    device: str
    start: int
    stop: int


@dataclass
class Plan:
    """``program`` is flat (see ``ir.inline``), in execution order; every instruction has device and offsets.

    ``offsets`` gives the arena offset in bytes of every register that has storage of its own; a view's place
    follows from its layout, an in-place result has the offset of the operand it overwrites.
    """

    program: Program
    segments: list[Segment]
    offsets: dict[Register, int]
    arenas: dict[str, ArenaPlan]
    transitions: int
    """Adjacent instructions on different devices (the paper's delta), views not counted."""
    transitions_naive: int
    """The same in program order, without affinity scheduling."""
    reasons: dict[int, Reason] = field(default_factory=dict)
    """Why instruction i is not on the requested device; views and transfers follow others and have none."""
    target: str = "cpu"
    """The requested device."""
    host: str = "cpu"
    """The device whose arena holds the program's inputs and results."""
    steps: list[Step] = field(default_factory=list)
    """How ``program`` came from the flat program it was planned for, one step an instruction."""
    cost_us: float = 0.0
    """Estimated latency in microseconds under the cost model, transfers included."""
    cost_naive_us: float = 0.0
    """The same with everything on the requested device that its backend accepts."""
    transfers: int = 0
    """Values copied from one device to another."""
    transfer_bytes: int = 0

    def placed_on(self, device: str) -> int:
        """Instructions on a device; views count nowhere."""
        return sum(instr.device == device and not get(instr.op).view for instr in self.program.main.body)
