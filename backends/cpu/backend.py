"""The CPU backend: every op of the IR, by the native runtime, or by numpy where that has no kernel.

It is the reference for all other devices and the place for whatever they refuse. Nothing is compiled ahead of
time: loading a segment binds its instructions to the arrays that they read and write. Maximal runs of
instructions with a native kernel become one step (:mod:`.native`); the others, and all of them where the
extension module was not built or ``FORGEC_CPU=numpy`` asks for it, become one numpy step each
(:mod:`.kernels`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from time import perf_counter_ns

import numpy as np

from forgec.errors import InternalError, OptionError, TargetError
from forgec.ir import ops  # noqa: F401  (registers the records)
from forgec.ir.op import OPS, get
from forgec.ir.program import Instr, Program

from ..base import Answer, Backend, Memory, No, Packing, Span, Step, Yes
from . import native
from .kernels import Scratch, bind

__all__ = ["CpuBackend", "runtime"]

_RUNTIME_VARIABLE = "FORGEC_CPU"


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

    def packings(self, segment: Program) -> Mapping[str, Packing]:
        return native.packings(segment.main.body) if native.available() is None else {}

    def load(self, segment: Program, code: bytes, memory: Memory) -> list[Step]:
        scratch = Scratch()

        def by_numpy(instr: Instr) -> Step:
            outputs = [memory(r) for r in instr.results]
            if not all(isinstance(x, np.ndarray) for x in outputs):
                raise InternalError(f"a result of {instr.op} has no array")
            return _NumpyStep(instr, bind(instr, [memory(x) for x in instr.operands], outputs, scratch))

        body = [instr for instr in segment.main.body if not get(instr.op).view]
        if runtime() == "numpy":
            return [by_numpy(instr) for instr in body]
        team = native.shared_team(_threads(memory))
        if getattr(memory, "single", False):
            return native.single_steps(body, memory, by_numpy, team)
        return native.steps(body, memory, by_numpy, team, getattr(memory, "derived", None))


class _NumpyStep:
    """An instruction that numpy runs."""

    def __init__(self, instr: Instr, call: Step) -> None:
        self._instr = instr
        self._call = call

    def __call__(self) -> None:
        self._call()

    def trace(self) -> list[Span]:
        begin = perf_counter_ns()
        self._call()
        return [Span(self._instr, 0, begin, perf_counter_ns(), 0)]


def runtime() -> str:
    """``"native"`` or ``"numpy"``: what runs programs on this machine; ``FORGEC_CPU`` chooses.

    Raises ``OptionError`` for another value, ``TargetError`` if the native runtime is asked for and missing.
    """
    wanted = os.environ.get(_RUNTIME_VARIABLE, "")
    if wanted not in ("", "native", "numpy"):
        raise OptionError(f"{_RUNTIME_VARIABLE} is {wanted!r}", hint="one of: native, numpy")
    missing = native.available()
    if wanted == "native" and missing is not None:
        raise TargetError(f"the native runtime is not available: {missing}")
    return "numpy" if wanted == "numpy" or missing is not None else "native"


def _threads(memory: Memory) -> int:
    wanted = getattr(memory, "threads", None)
    return native.threads_default() if wanted is None else int(wanted)
