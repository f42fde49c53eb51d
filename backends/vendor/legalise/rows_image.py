"""A matrix product with a constant weight as a convolution over an image of its rows.

Before: ``y = linear x[128,k], c1[n,k], c2``. After: ``reshape`` to [1, 16, 8, k], ``transpose`` to [1, k, 16,
8], ``conv`` with [n, k, 1, 1], and back. Intel's compiler makes a convolution of a product anyhow; with rows
in two axes it has more ways to divide the work and needs no other order of the rows around attention.

Does not fire when the rows do not divide, when there are no more of them than the image is high, or when the
weight is no constant.
"""

from __future__ import annotations

from collections.abc import Sequence

from forgec.ir.program import ConstRef, Instr, Operand

from .builder import Builder, Rule, type_of

__all__ = ["rows_as_image"]


_WIDE = 1024
"""Inputs and outputs from which on a product is wide."""


def rows_as_image(*heights: int, wide: Sequence[int] = ()) -> Rule:
    """A rule for products of two axes without activation and residual; the image is as high as the first of
    ``heights`` that divides the rows, in wide products of ``wide`` before these."""

    def rule(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        kind = type_of(instr.operands[0])
        if instr.op != "linear" or kind is None or kind.rank != 2:
            return None
        x, weight, bias, residual = instr.operands
        rows, width = kind.shape
        if not isinstance(weight, ConstRef) or residual is not None or instr.attrs.get("act"):
            return None
        tried = (*wide, *heights) if min(weight.type.shape) >= _WIDE else heights
        height = next((h for h in tried if rows % h == 0 and rows > h), 0)
        if not height:
            return None
        kernel = build.constant("reshape", weight, shape=(*weight.type.shape, 1, 1))
        image = build.op("reshape", x, shape=(1, height, rows // height, width))
        image = build.op("transpose", image, perm=(0, 3, 1, 2))
        y = build.op("conv", image, kernel, bias, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
        y = build.op("copy", build.op("transpose", y, perm=(0, 2, 3, 1)))
        return (build.op("reshape", y, shape=instr.results[0].type.shape),)

    return rule
