"""Matrix products as rank-2 Gemm where one side is a weight, and convolutions.

``Gemm`` with a bias becomes one FullyConnected on HTP; ``MatMul`` and ``Add`` on rank 3 become three ops.
"""

from __future__ import annotations

import math

from forgec.ir.program import ConstRef, Instr, Operand, Register

from ...vendor.attributes import integer, integers, text
from .builder import Builder, rows_of
from .elementwise import activate
from .registry import emits

__all__: list[str] = []


@emits("linear")
def linear(b: Builder, instr: Instr) -> None:
    """A weight that is an input comes as [inputs, outputs] for ``MatMul``: HTP does that in half the cycles
    of a ``Gemm`` on it."""
    x, weight, bias, residual = instr.operands
    if isinstance(weight, ConstRef) and b.is_input(weight):
        y = b.node("MatMul", b.rows(x), b.weight(weight, (1, 0)))
        _finish(b, instr, b.node("Add", y, b.value(bias), step="bias") if bias is not None else y, residual)
    else:
        _product(b, instr, x, b.value(weight), bias, residual)


@emits("linear_q")
def linear_q(b: Builder, instr: Instr) -> None:
    """On the weight that codes and scales stand for: HTP would decompress such weights itself, to f16."""
    x, weight, scales, bias, residual = instr.operands
    _product(b, instr, x, b.decompressed(weight, scales, integer(instr, "group")), bias, residual)


def _product(b: Builder, instr: Instr, x: Operand, weight: str, bias: Operand, residual: Operand) -> None:
    inputs = [b.rows(x), weight]
    if bias is not None:
        inputs.append(b.value(bias))
    _finish(b, instr, b.node("Gemm", *inputs, transB=1), residual)


def _finish(b: Builder, instr: Instr, product: str, residual: Operand) -> None:
    result = instr.results[0]
    y = activate(b, product, text(instr, "act"))
    if residual is not None:
        y = b.node("Add", y, b.rows(residual), step="residual")
    b.define(result, y, rows_of(result.type.shape))


@emits("matmul")
def matmul(b: Builder, instr: Instr) -> None:
    """Rank 4 at most: more axes are put together where the two batches agree."""
    left, right = instr.operands
    result = instr.results[0].type
    assert left is not None and right is not None
    if result.rank <= 4:
        b.define(instr.results[0], b.node("MatMul", b.value(left), b.value(right)))
        return
    batch = math.prod(result.shape[:-2])
    sides = [b.value(x, (batch, *x.type.shape[-2:])) for x in instr.operands if isinstance(x, Register)]
    b.define(instr.results[0], b.node("MatMul", *sides), (batch, *result.shape[-2:]))


@emits("conv")
def conv(b: Builder, instr: Instr) -> None:
    x, weight, bias = instr.operands
    inputs = [b.value(x), b.value(weight), *([b.value(bias)] if bias is not None else [])]
    y = b.node(
        "Conv",
        *inputs,
        strides=list(integers(instr, "stride")),
        pads=list(integers(instr, "padding")) * 2,
        dilations=list(integers(instr, "dilation")),
        group=integer(instr, "groups"),
    )
    b.define(instr.results[0], y)
