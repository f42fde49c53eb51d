"""Attention as matrix products and a softmax, rotary embedding, softmax.

HTP has no attention kernel; the ONNX operator would be taken apart in a slower way. Grouped heads are
computed by reshaping the query to [batch, kv_heads, group * rows, size], so that keys and values are not
repeated.
"""

from __future__ import annotations

import numpy as np

from forgec.ir.program import ConstRef, Instr, Operand, Register
from forgec.ir.types import DType

from ...vendor.attributes import flag, integer, number
from .builder import Builder
from .masks import Sizes, score_bias
from .registry import emits

__all__: list[str] = []


@emits("softmax", "log_softmax")
def softmax(b: Builder, instr: Instr) -> None:
    op = "Softmax" if instr.op == "softmax" else "LogSoftmax"
    b.define(instr.results[0], b.node(op, b.value(instr.operands[0]), axis=integer(instr, "axis")))


@emits("attention")
def attention(b: Builder, instr: Instr) -> None:
    q, k, v = instr.operands[:3]
    assert isinstance(q, Register | ConstRef) and isinstance(k, Register | ConstRef)
    assert isinstance(v, Register | ConstRef)
    batch, heads, rows, size = q.type.shape
    kv_heads, length, out_size = k.type.shape[1], k.type.shape[2], v.type.shape[3]
    group = heads // kv_heads
    scale = number(instr, "scale")
    softcap = number(instr, "softcap")
    query = b.value(q)
    if scale != 1.0:
        query = b.node("Mul", query, b.scalar(scale, DType.F32), step="scale")
    if group > 1:
        query = b.reshape(query, (batch, kv_heads, group * rows, size))
    scores = b.node("MatMul", query, b.transposed(k, (0, 1, 3, 2)), step="scores")
    if softcap:
        scores = b.node("Mul", scores, b.scalar(1 / softcap, DType.F32), step="softcap")
        scores = b.node("Mul", b.node("Tanh", scores), b.scalar(softcap, DType.F32), step="softcap")
    bias = score_bias(b, instr, Sizes(heads, kv_heads, rows, length))
    if bias is not None:
        scores = b.node("Add", scores, bias, step="mask")
    y = b.node("MatMul", b.node("Softmax", scores, axis=-1), b.value(v), step="values")
    if group > 1:
        y = b.reshape(y, (batch, heads, rows, out_size))
    if flag(instr, "seq_major"):
        y = b.transpose(y, (batch, heads, rows, out_size), (0, 2, 1, 3))
    b.define(instr.results[0], y)


@emits("rope")
def rope(b: Builder, instr: Instr) -> None:
    """By its definition: HTP's own kernel wants one angle for a pair of channels, and has no cost model."""
    x, cos, sin = instr.operands
    assert isinstance(x, Register | ConstRef) and isinstance(cos, Register | ConstRef)
    interleaved = flag(instr, "interleaved")
    size, own = cos.type.shape[-1], x.type.shape
    name = b.value(x)
    rest = None
    if size < own[-1]:
        name, rest = b.node("Split", name, b.ints((size, own[-1] - size)), outputs=2, axis=-1)
    y = b.node("Mul", name, b.value(cos), step="cos")
    turned = b.node(
        "Mul", _partner(b, name, (*own[:-1], size), interleaved), _signed(b, sin, interleaved), step="sin"
    )
    y = b.node("Add", y, turned, step="rope")
    b.define(instr.results[0], y if rest is None else b.node("Concat", y, rest, axis=-1))


def _partner(b: Builder, name: str, shape: tuple[int, ...], interleaved: bool) -> str:
    """Each channel's partner, without the sign."""
    size = shape[-1]
    if not interleaved:
        first, second = b.node(
            "Split", name, b.ints((size // 2, size // 2)), outputs=2, axis=-1, step="halves"
        )
        return b.node("Concat", second, first, axis=-1, step="swap")
    pairs = b.reshape(name, (*shape[:-1], size // 2, 2))
    even, odd = b.node("Split", pairs, b.ints((1, 1)), outputs=2, axis=-1, step="halves")
    return b.reshape(b.node("Concat", odd, even, axis=-1, step="swap"), shape)


def _signed(b: Builder, sin: Operand, interleaved: bool) -> str:
    """The sines with the sign of the partner that they multiply: minus for the first of a pair."""
    assert isinstance(sin, Register | ConstRef)
    size = sin.type.shape[-1]
    sign = np.ones(size, np.float32)
    if interleaved:
        sign[0::2] = -1
    else:
        sign[: size // 2] = -1
    key = (sin.name if isinstance(sin, ConstRef) else sin.id, "signed", interleaved)
    array = b.static(sin)
    if array is not None:
        return b.once(key, lambda: b.initializer(array * sign))
    signs = b.once(("sign", size, interleaved), lambda: b.initializer(sign))
    return b.once(key, lambda: b.node("Mul", b.value(sin), signs, step="signed"))
