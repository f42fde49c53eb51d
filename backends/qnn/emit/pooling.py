"""Pooling, in the forms that HTP is known to compute.

Its compiler takes averages over padding, and windows with gaps between them. The first come out wrong in many
sizes, as its emulator shows, and the second may end the process. :func:`refusal` keeps both off the device.
"""

from __future__ import annotations

from typing import Any

from forgec.ir.op import get
from forgec.ir.ops.pooling import windows
from forgec.ir.program import Instr, Literal

from ...vendor.attributes import integers, text
from .builder import Builder
from .registry import emits

__all__ = ["refusal"]


@emits("pool")
def pool(b: Builder, instr: Instr) -> None:
    """Padding is as wide as the windows reach, so that no number of windows is rounded."""
    form: dict[str, Any] = {"kernel_shape": integers(instr, "kernel"), "strides": integers(instr, "stride")}
    x = b.value(instr.operands[0])
    if text(instr, "kind") == "average":
        b.define(instr.results[0], b.node("AveragePool", x, **form))
        return
    pads = (*integers(instr, "padding"), *_after(instr))
    y = b.node("MaxPool", x, pads=pads, dilations=integers(instr, "dilation"), **form)
    b.define(instr.results[0], y)


def refusal(instr: Instr) -> str | None:
    """Why a ``pool`` does not go to HTP, or None."""
    if text(instr, "kind") == "average" and any((*integers(instr, "padding"), *_after(instr))):
        return "averages over padding come out wrong on Hexagon"
    steps = zip(integers(instr, "kernel"), integers(instr, "stride"), strict=True)
    if any(stride > kernel for kernel, stride in steps):
        return "Hexagon's compiler may die of windows with gaps between them"
    return None


def _after(instr: Instr) -> list[int]:
    """How far the windows reach over the end of each axis."""
    x = instr.operands[0]
    assert x is not None and not isinstance(x, Literal)
    return [found.after for found in windows(x.type.shape, {**get("pool").attrs, **instr.attrs})]
