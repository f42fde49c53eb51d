"""Backends for the planner's tests: prices by op, refusals by op; nothing here runs."""

from __future__ import annotations

from collections.abc import Callable, Collection

from forgec.backends.base import Answer, Backend, Memory, No, Step, Yes

from forgec.ir.program import Instr, Program

__all__ = ["Device"]


class Device(Backend):
    """Accepts every op that is not refused, at ``price(instr)`` microseconds or the cost model's."""

    def __init__(
        self,
        name: str,
        price: Callable[[Instr], float] | None = None,
        refuses: Collection[str] = (),
        missing: str | None = None,
    ) -> None:
        self.name = name
        self.price = price
        self.refuses = refuses
        self.missing = missing
        self.asked = 0

    def available(self) -> str | None:
        return self.missing

    def supports(self, instr: Instr) -> Answer:
        self.asked += 1
        if instr.op in self.refuses:
            return No("op", f"{self.name} has no {instr.op}", f"rewrite {instr.op}")
        return Yes(None if self.price is None else self.price(instr))

    def load(self, segment: Program, code: bytes, memory: Memory) -> list[Step]:
        return []
