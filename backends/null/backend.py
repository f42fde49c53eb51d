"""The null backend accepts, refuses, fails or lags on demand.

It computes right results with the CPU's kernels, so that a program placed on it can be checked, and it never
counts as a device: ``available`` says so unless a test asks for it. Its code is the text of the segment, so
that what it loads went through a file like a vendor's code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from forgec.errors import BackendError
from forgec.ir.parser import parse
from forgec.ir.printer import to_text
from forgec.ir.program import Instr, Program

from ..base import DEFAULTS, Answer, Backend, Constants, Memory, No, Settings, Step, Yes
from ..cpu import CpuBackend

__all__ = ["NullBackend"]


class NullBackend(Backend):
    """``refuses`` names ops, or decides by instruction, what it does not take.

    ``fails`` is the moment it breaks at: ``"compile"``, ``"load"``, ``"run"`` or never. ``lag_s`` seconds
    pass at every start of a segment. ``cost_us`` is its latency for every instruction. ``pretend`` lets it be
    used.
    """

    def __init__(
        self,
        name: str = "null",
        *,
        refuses: Collection[str] | Callable[[Instr], bool] = (),
        fails: str = "",
        lag_s: float = 0.0,
        cost_us: float = 1.0,
        pretend: bool = False,
    ) -> None:
        self.name = name
        self._refuses = refuses
        self._fails = fails
        self._lag_s = lag_s
        self._cost_us = cost_us
        self._pretend = pretend
        self._cpu = CpuBackend()

    def available(self) -> str | None:
        return None if self._pretend else "the null backend stands for no device; it is there for tests"

    def supports(self, instr: Instr) -> Answer:
        known = self._cpu.supports(instr)
        if isinstance(known, No):
            return known
        refused = self._refuses(instr) if callable(self._refuses) else instr.op in self._refuses
        if refused:
            return No("refused", f"the null backend was told to refuse {instr.op}", "let the CPU run it")
        return Yes(self._cost_us)

    def compile(self, segment: Program, constants: Constants, settings: Settings = DEFAULTS) -> bytes:
        self._maybe_fail("compile")
        return to_text(segment).encode()

    def load(self, segment: Program, code: bytes, memory: Memory) -> list[Step]:
        self._maybe_fail("load")
        return [self._start, *self._cpu.load(parse(code.decode()), b"", memory)]

    def _start(self) -> None:
        self._maybe_fail("run")
        if self._lag_s:
            time.sleep(self._lag_s)

    def _maybe_fail(self, moment: str) -> None:
        if self._fails == moment:
            raise BackendError(f"the null backend was told to fail at {moment}")
