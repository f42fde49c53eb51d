"""Pooling, its padding as wide as its windows reach, so that no number of windows is rounded."""

from __future__ import annotations

from forgec.ir.op import get
from forgec.ir.ops.pooling import windows
from forgec.ir.program import ConstRef, Instr, Register

from ...vendor.attributes import flag, integers, text
from .builder import Builder
from .registry import emits

__all__: list[str] = []


@emits("pool")
def pool(b: Builder, instr: Instr) -> None:
    """An average counts all padding or none: where windows reach behind what counts, zeros stand there."""
    x, result = instr.operands[0], instr.results[0]
    assert isinstance(x, Register | ConstRef)
    before = list(integers(instr, "padding"))
    after = [found.after for found in windows(x.type.shape, {**get("pool").attrs, **instr.attrs})]
    form = {"kernel_shape": list(integers(instr, "kernel")), "strides": list(integers(instr, "stride"))}
    value = b.value(x)
    if text(instr, "kind") == "max":
        dilations = list(integers(instr, "dilation"))
        b.define(result, b.node("MaxPool", value, pads=before + after, dilations=dilations, **form))
        return
    counted = flag(instr, "include_padding")
    if counted and any(a > p for a, p in zip(after, before, strict=True)):
        widths = b.ints((0, 0, *before) * 2)
        value, counted = b.node("Pad", value, widths, b.scalar(0.0, result.type.dtype)), False
        after = [max(a - p, 0) for a, p in zip(after, before, strict=True)]
        before = [0] * len(before)
    y = b.node("AveragePool", value, pads=before + after, count_include_pad=int(counted), **form)
    b.define(result, y)
