"""The weights that make some of a product's outputs."""

from __future__ import annotations

from forgec.ir.program import ConstRef, Instr

from .builder import Builder

__all__ = ["outputs"]


def outputs(build: Builder, instr: Instr, start: int, stop: int) -> tuple[ConstRef, ConstRef | None]:
    """Weight and bias of a ``linear``, both constant, for its outputs from ``start`` to ``stop``."""
    weight, bias = instr.operands[1:3]
    assert isinstance(weight, ConstRef) and isinstance(bias, ConstRef | None)
    some = build.constant("slice", weight, axis=0, start=start, stop=stop)
    return some, None if bias is None else build.constant("slice", bias, axis=0, start=start, stop=stop)
