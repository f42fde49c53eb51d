"""The CPU backend: every op of the IR, by numpy.

It is the reference for all other devices and the place for whatever they refuse. Nothing is compiled ahead of
time: loading a segment binds one kernel per instruction to the arrays that it reads and writes.

The seam to a native runtime is :func:`kernels.bind`: an instruction and its arrays, at their final addresses
with their strides, in; one callable without arguments out. A native kernel takes the same and needs nothing
else of Python; when all instructions of a segment have one, ``load`` returns a single step for all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from forgec.errors import InternalError
from forgec.ir import ops  # noqa: F401  (registers the records)
from forgec.ir.op import OPS, get
from forgec.ir.program import Instr, Program

from ..base import Answer, Backend, Memory, No, Step, Yes
from .kernels import Scratch, bind

__all__ = ["CpuBackend"]


class CpuBackend(Backend):
    """``cost`` estimates the microseconds of an instruction; without it the planner's own model does."""

    name = "cpu"

    def __init__(self, cost: Callable[[Instr], float] | None = None) -> None:
        self._cost = cost

    def available(self) -> str | None:
        return None

    def supports(self, instr: Instr) -> Answer:
        if instr.op not in OPS or instr.op == "call":
            return No("op", f"{instr.op!r} is no op that runs by itself", "expand calls before placement")
        return Yes(None if self._cost is None else self._cost(instr))

    def load(self, segment: Program, code: bytes, memory: Memory) -> list[Step]:
        scratch = Scratch()
        steps = []
        for instr in segment.main.body:
            if get(instr.op).view:
                continue
            outputs = [memory(r) for r in instr.results]
            if not all(isinstance(x, np.ndarray) for x in outputs):
                raise InternalError(f"a result of {instr.op} has no array")
            steps.append(bind(instr, [memory(x) for x in instr.operands], outputs, scratch))
        return steps
