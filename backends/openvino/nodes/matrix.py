"""Matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forgec.ir.program import ConstRef, Instr, Operand

from ...vendor.attributes import integer
from .registry import Context, Node, emitter

__all__ = ["Form", "forms"]


@dataclass(frozen=True)
class Form:
    """How a model holds a constant: its axes permuted, then reshaped."""

    perm: tuple[int, ...]
    shape: tuple[int, ...]


def forms(body: Sequence[Instr]) -> dict[Operand, Form]:
    """By constant, where it is not held as it is: codes with groups [out, groups, group], scales [out, 1] or
    [out, groups, 1]. The compiler multiplies by weights as inputs only in these forms."""
    found: dict[Operand, Form] = {}
    for instr in body:
        if instr.op != "linear_q":
            continue
        codes, scales, group = instr.operands[1], instr.operands[2], integer(instr, "group")
        if isinstance(scales, ConstRef):
            shape = scales.type.shape[::-1]
            found[scales] = Form((1, 0), (*shape, 1) if group else shape)
        if isinstance(codes, ConstRef) and group:
            outs, depth = codes.type.shape
            found[codes] = Form((0, 1), (outs, depth // group, group))
    return found


@emitter("linear")
def linear(c: Context) -> Node:
    """Without activation and residual, which legalisation has taken off."""
    y = c.o.matmul(c[0], c[1], False, True)
    return c.o.add(y, c[2]) if c.given(2) else y


@emitter("linear_q")
def linear_q(c: Context) -> Node:
    """Codes that the compiler keeps as they are, times scales. Activations stay floats."""
    weight = c.o.convert(c[1], c.ov_type(c.result.dtype))
    if c.given(2):
        weight = c.o.multiply(weight, c[2])
    if c.attrs["group"]:
        weight = c.o.reshape(weight, c.ints(*c.type(1).shape), False)
    y = c.o.matmul(c[0], weight, False, True)
    return c.o.add(y, c[3]) if c.given(3) else y


@emitter("matmul")
def matmul(c: Context) -> Node:
    return c.o.matmul(c[0], c[1], False, False)


@emitter("conv")
def conv(c: Context) -> Node:
    stride, padding, dilation = (list(c.attrs[key]) for key in ("stride", "padding", "dilation"))
    groups, weight = c.attrs["groups"], c.type(1).shape
    kernel = c[1]
    if groups > 1:
        shape = (groups, weight[0] // groups, *weight[1:])
        kernel = c.o.reshape(kernel, c.ints(*shape), False)
    make = c.o.group_convolution if groups > 1 else c.o.convolution
    y = make(c[0], kernel, stride, padding, padding, dilation)
    if not c.given(2):
        return y
    spatial = (1,) * (len(weight) - 2)
    return c.o.add(y, c.o.reshape(c[2], c.ints(1, weight[0], *spatial), False))
