"""A convolution over patches that do not overlap as a matrix product.

Before: ``y = conv x[b,3,224,224], c1[n,3,16,16], c2 {stride=16}``. After: every patch becomes a row of
[b*14*14, 3*16*16] in two transpositions, ``linear`` with the weight in two axes, and ``transpose`` to
channels first. With three channels the matrix engines of an NPU do five times the work for the convolution.

Does not fire when strides are not the kernel's sizes, with padding, dilation or groups, when patches leave a
border, or with many channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from forgec.ir.op import get
from forgec.ir.program import ConstRef, Instr, Operand

from .builder import Builder, type_of

__all__ = ["patches_as_rows"]

_FEW = 16
"""Channels that a matrix engine takes at once; with as many, a convolution wastes nothing."""


def patches_as_rows(build: Builder, instr: Instr) -> Sequence[Operand] | None:
    if instr.op != "conv":
        return None
    x, weight, bias = instr.operands
    image = type_of(x)
    assert image is not None
    if image.rank != 4 or not isinstance(weight, ConstRef) or image.shape[1] >= _FEW:
        return None
    count, channels, *size = weight.type.shape
    attrs: dict[str, Any] = {**get("conv").attrs, **instr.attrs}
    plain = attrs["groups"] == 1 and not any(attrs["padding"]) and set(attrs["dilation"]) == {1}
    if not plain or tuple(attrs["stride"]) != tuple(size) or math.prod(size) == 1:
        return None
    batch, _, height, width = image.shape
    if height % size[0] or width % size[1]:
        return None
    down, across = height // size[0], width // size[1]
    area = size[0] * size[1]
    rows = build.op("reshape", x, shape=(batch * channels * down, size[0], across, size[1]))
    rows = build.op("copy", build.op("transpose", rows, perm=(0, 2, 1, 3)))
    rows = build.op("reshape", rows, shape=(batch, channels, down * across, area))
    rows = build.op("copy", build.op("transpose", rows, perm=(0, 2, 1, 3)))
    rows = build.op("reshape", rows, shape=(batch * down * across, channels * area))
    flat = build.constant("reshape", weight, shape=(count, channels * area))
    y = build.op("linear", rows, flat, bias, None, act="")
    y = build.op("reshape", y, shape=(batch, down, across, count))
    return (build.op("copy", build.op("transpose", y, perm=(0, 3, 1, 2))),)
