"""Rotary embedding by halves of the head, in plain ops.

Before: ``y = rope x, cos, sin``. After: ``y = concat(x2 * -1, x1) * sin + x * cos`` on the rotated channels,
the rest behind them; interleaved pairs are a trailing axis of two.
"""

from __future__ import annotations

from collections.abc import Sequence

from forgec.ir.program import Instr, Operand

from .builder import Builder, type_of

__all__ = ["split_rope"]


def split_rope(build: Builder, instr: Instr) -> Sequence[Operand] | None:
    if instr.op != "rope":
        return None
    x, cos, sin = instr.operands
    kind, table = type_of(x), type_of(cos)
    assert kind is not None and table is not None
    size, last = table.shape[-1], kind.rank - 1
    head: Operand = x
    if size < kind.shape[-1]:
        head = build.op("slice", x, axis=last, start=0, stop=size, step=1)
    shape = (*kind.shape[:-1], size)
    if instr.attrs.get("interleaved"):
        pairs = build.op("reshape", head, shape=(*kind.shape[:-1], size // 2, 2))
        rotated = build.op("reshape", _swapped(build, pairs, last + 1, 1), shape=shape)
    else:
        rotated = _swapped(build, head, last, size // 2)
    y = build.op("add", build.op("mul", head, cos), build.op("mul", rotated, sin))
    if size < kind.shape[-1]:
        rest = build.op("slice", x, axis=last, start=size, stop=kind.shape[-1], step=1)
        y = build.op("concat", y, rest, axis=last)
    return (y,)


def _swapped(build: Builder, x: Operand, axis: int, half: int) -> Operand:
    """(-second, first) of the two halves on an axis."""
    first = build.op("slice", x, axis=axis, start=0, stop=half, step=1)
    second = build.op("slice", x, axis=axis, start=half, stop=2 * half, step=1)
    return build.op("concat", build.op("neg", second), first, axis=axis)
