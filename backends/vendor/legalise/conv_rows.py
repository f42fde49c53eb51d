"""A convolution over time as one matrix product on rows.

Before: ``y = conv x[b,c,t], w[o,c,k] {stride=s}; z = gelu y; t = transpose z``. After: the rows ``x'[b,t,c]``
padded, ``k`` shifted copies of them side by side, ``linear`` on ``w`` as [o, k*c], ``gelu`` on rows. With a
stride, ``s`` rows become one first, so that no rows are picked apart. The transposition back is built only
for who reads the result as channels. Matrix engines run a product of these sizes at their full rate, and a
convolution over one axis far below it.

Does not fire with groups, gaps between the taps, two axes, or a weight computed in the segment.
"""

from __future__ import annotations

from collections.abc import Sequence

from forgec.ir.op import get
from forgec.ir.program import ConstRef, Instr, Operand, Register

from ..attributes import integer, integers
from .builder import Builder, Rule, type_of

__all__ = ["conv_on_rows"]

_POINTWISE = ("gelu", "gelu_tanh", "relu", "silu")
_SWAP = (0, 2, 1)


def conv_on_rows() -> list[Rule]:
    """The rules for one segment."""
    rows: dict[int, Operand] = {}

    def channels(build: Builder, made: Operand) -> Sequence[Operand]:
        """Rows as [b, channels, t], remembered as rows."""
        result = build.op("transpose", made, perm=_SWAP)
        rows[result.id] = made
        return (result,)

    def convolve(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        if instr.op != "conv":
            return None
        x, weight, bias = instr.operands
        kind = type_of(x)
        if kind is None or kind.rank != 3 or not isinstance(weight, ConstRef):
            return None
        attrs = {**get("conv").attrs, **instr.attrs}
        given = Instr("conv", instr.operands, instr.results, attrs)
        if integer(given, "groups") != 1 or any(d != 1 for d in integers(given, "dilation")):
            return None
        outputs, inputs, taps = weight.type.shape
        matrix = build.constant(
            "reshape", build.constant("transpose", weight, perm=_SWAP), shape=(outputs, taps * inputs)
        )
        source = rows.get(x.id) if isinstance(x, Register) else None
        if source is None:
            source = build.op("transpose", x, perm=_SWAP)
        (stride,), (padding,) = integers(given, "stride"), integers(given, "padding")
        windows = _windows(build, source, taps, stride, padding, instr.results[0].type.shape[2])
        return channels(build, build.op("linear", windows, matrix, bias, None))

    def point(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        made = rows.get(getattr(instr.operands[0], "id", -1)) if instr.operands else None
        if made is None or instr.op not in _POINTWISE:
            return None
        return channels(build, build.op(instr.op, made, **instr.attrs))

    def swap(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        made = rows.get(getattr(instr.operands[0], "id", -1)) if instr.operands else None
        if made is None or instr.op != "transpose" or integers(instr, "perm") != _SWAP:
            return None
        return (made,)

    return [convolve, point, swap]


def _windows(build: Builder, x: Operand, taps: int, stride: int, padding: int, count: int) -> Operand:
    """[b, count, taps * c]: the rows that each of ``count`` windows of x[b, t, c] sees, side by side."""
    kind = type_of(x)
    assert kind is not None
    batch, length, size = kind.shape
    groups = count + (taps - 1) // stride
    after = groups * stride - length - padding
    if after < 0:
        x = build.op("slice", x, axis=1, start=0, stop=length + after, step=1)
    if padding or after > 0:
        x = build.op("pad", x, before=(0, padding, 0), after=(0, max(after, 0), 0), value=0.0)
    if stride > 1:
        x = build.op("reshape", x, shape=(batch, groups, stride * size))
    parts = []
    for first in range(0, taps, stride):
        start = first // stride
        part = build.op("slice", x, axis=1, start=start, stop=start + count, step=1)
        if (here := min(stride, taps - first)) < stride:
            part = build.op("slice", part, axis=2, start=0, stop=here * size, step=1)
        parts.append(part)
    return parts[0] if len(parts) == 1 else build.op("concat", *parts, axis=2)
