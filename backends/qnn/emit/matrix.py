"""Matrix products as rank-2 Gemm where one side is a weight, and convolutions.

``Gemm`` with a bias becomes one FullyConnected on HTP; ``MatMul`` and ``Add`` on rank 3 become three ops.
"""

from __future__ import annotations

import math

import numpy as np

from forgec.ir.program import ConstRef, Instr, Operand, Register
from forgec.ir.types import DType

from ...vendor.attributes import integer, integers, text
from ..legalise import FITS
from .blocks import MICROSOFT, Blocks, by_row, in_blocks
from .builder import Builder, Shape, rows_of
from .elementwise import activate
from .registry import emits

__all__: list[str] = []

_F16 = 2
_WIDE = 1 << 20
"""Bytes of an output from which writing it out is worth a second look."""
_ALIGN = 64
"""Columns of a tile."""
_STEP = 2.0**-11
"""What a step of codes is before its scale: weights are 1/16 at most, so that products are far inside f16
wherever the largest weight of a row is between a hundredth and some units."""


@emits("linear")
def linear(b: Builder, instr: Instr) -> None:
    """A weight that is an input comes as [inputs, outputs] for ``MatMul``: HTP does that in half the cycles
    of a ``Gemm`` on it."""
    x, weight, bias, residual = instr.operands
    if isinstance(weight, ConstRef) and b.is_input(weight):
        y = b.node("MatMul", b.rows(x), b.weight(weight, (1, 0)))
        _finish(b, instr, b.node("Add", y, b.value(bias), step="bias") if bias is not None else y, residual)
    elif not _leaves_in_slices(b, instr):
        _product(b, instr, x, b.value(weight), bias, residual)


@emits("expert_linear")
def expert_linear(b: Builder, instr: Instr) -> None:
    """Weights of experts are gathered for every row, and multiplied."""
    x, weight, ids = instr.operands
    assert isinstance(x, Register | ConstRef) and isinstance(weight, Register | ConstRef)
    rows, outs = instr.results[0].type.shape
    depth = x.type.shape[1]
    of_all = b.value(weight, (weight.type.shape[0] // outs, outs, depth))
    gathered = b.node("Gather", of_all, b.value(ids), axis=0)
    y = b.node("MatMul", gathered, b.value(x, (rows, depth, 1)))
    b.define(instr.results[0], b.reshape(y, (rows, outs)))


def _leaves_in_slices(b: Builder, instr: Instr) -> bool:
    """A wide result of the segment, as the logits of a large vocabulary, as one output for every few columns.

    HTP writes a wide output out of its tiles slowly, and weights that do not fit on the chip are fetched at
    half the rate; the host copies outputs anyway. Fires for constants alone, without a residual.
    """
    x, weight, bias, residual = instr.operands
    result = instr.results[0]
    assert isinstance(x, Register | ConstRef)
    if residual is not None or not isinstance(weight, ConstRef) or not b.only_result(result):
        return False
    outputs, inputs = weight.type.shape
    step = max(_ALIGN, FITS // (_F16 * inputs) // _ALIGN * _ALIGN)
    if outputs <= step or result.type.numel * _F16 < _WIDE:
        return False
    array, shifts = b.static(weight), None if bias is None else b.static(bias)
    if array is None or (bias is not None and shifts is None):
        return False
    slices = []
    for start in range(0, outputs, step):
        piece = array[start : start + step]
        given = [b.rows(x), b.initializer(piece)]
        if shifts is not None:
            given.append(b.initializer(shifts[start : start + step]))
        y = activate(b, b.node("Gemm", *given, transB=1, step="slice"), text(instr, "act"))
        slices.append(((math.prod(result.type.shape[:-1]), len(piece)), y))
    b.define_slices(result, slices)
    return True


@emits("linear_q")
def linear_q(b: Builder, instr: Instr) -> None:
    """``MatMulNBits`` keeps codes as they are in memory, for one batch of rows only and without a bias;
    activations stay floats. What it cannot hold is decompressed: HTP would do that itself, to f16."""
    x, weight, scales, bias, residual = instr.operands
    group = integer(instr, "group")
    if isinstance(weight, ConstRef) and b.is_input(weight) and by_row(instr):
        y = _of_given_codes(b, x, weight, scales)
        _finish(b, instr, b.node("Add", y, b.value(bias), step="bias") if bias is not None else y, residual)
        return
    blocks = None if b.is_input(weight) else _blocks(b, weight, scales, group)
    if blocks is None:
        _product(b, instr, x, b.decompressed(weight, scales, group), bias, residual)
        return
    assert isinstance(x, Register | ConstRef)
    rows, depth = rows_of(x.type.shape)
    shape = (1, rows, blocks.outs)
    y = b.node(
        "MatMulNBits",
        b.value(x, (1, rows, depth)),
        b.once((weight, "codes"), lambda: b.raw(blocks.codes)),
        b.once((scales, group, "blocks"), lambda: b.initializer(blocks.scales)),
        domain=MICROSOFT,
        K=depth,
        N=blocks.outs,
        bits=blocks.bits,
        block_size=blocks.size,
    )
    if bias is not None:
        y = b.node("Add", y, b.value(bias), step="bias")
    _finish(b, instr, y, residual, shape)


def _of_given_codes(b: Builder, x: Operand, codes: ConstRef, scales: Operand) -> str:
    """A product with codes that are inputs: bytes from 0 on, of which HTP multiplies ``codes * _STEP``; their
    scales go to the result, because on the weight they cost five times the product."""
    zero = b.once("zero of codes", lambda: b.raw(np.array(0x80, np.uint8)))
    steps = b.node("DequantizeLinear", b.weight(codes, (1, 0)), b.scalar(_STEP, DType.F32), zero)
    factors = b.node("Mul", b.value(scales), b.scalar(1 / _STEP, DType.F32), step="scales")
    return b.node("Mul", b.node("MatMul", b.rows(x), steps), factors, step="scaled")


def _product(b: Builder, instr: Instr, x: Operand, weight: str, bias: Operand, residual: Operand) -> None:
    inputs = [b.rows(x), weight]
    if bias is not None:
        inputs.append(b.value(bias))
    _finish(b, instr, b.node("Gemm", *inputs, transB=1), residual)


def _finish(b: Builder, instr: Instr, product: str, residual: Operand, shape: Shape | None = None) -> None:
    """Activation and residual on a product of that shape, else in rows."""
    result = instr.results[0]
    shape = rows_of(result.type.shape) if shape is None else shape
    y = activate(b, product, text(instr, "act"))
    if residual is not None:
        y = b.node("Add", y, b.value(residual, shape), step="residual")
    b.define(result, y, shape)


def _blocks(b: Builder, codes: Operand, scales: Operand, group: int) -> Blocks | None:
    values, factors = b.static(codes), b.static(scales)
    return None if values is None or factors is None else in_blocks(values, factors, group)


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
