"""Which function emits which op: the table that the files of op families fill."""

from __future__ import annotations

from collections.abc import Callable

from forgec.ir.program import Instr

from .builder import Builder

__all__ = ["EMITTERS", "Emitter", "emits"]

Emitter = Callable[[Builder, Instr], None]
EMITTERS: dict[str, Emitter] = {}


def emits(*ops: str) -> Callable[[Emitter], Emitter]:
    """Register the decorated function for IR ops."""

    def register(emitter: Emitter) -> Emitter:
        EMITTERS.update(dict.fromkeys(ops, emitter))
        return emitter

    return register
