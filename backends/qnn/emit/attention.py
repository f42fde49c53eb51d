"""Attention as matrix products and a softmax, rotary embedding, softmax.

HTP has no attention kernel; the ONNX operator would be taken apart in a slower way. Grouped heads are
computed by reshaping the query to [batch, kv_heads, group * rows, size], so that keys and values are not
repeated. A mask is a sum with 0 and -10000, prepared once for all layers that share it. A row that may attend
to nothing gives the mean of the values then, not zeros as in the IR; no later row reads it in a
transformer.
"""

from __future__ import annotations

import numpy as np

from forgec.ir.program import ConstRef, Instr, Operand, Register
from forgec.ir.types import DType

from .builder import Builder
from .registry import emits

__all__: list[str] = []

_MASKED = -10_000.0


@emits("softmax", "log_softmax")
def softmax(b: Builder, instr: Instr) -> None:
    op = "Softmax" if instr.op == "softmax" else "LogSoftmax"
    b.define(instr.results[0], b.node(op, b.value(instr.operands[0]), axis=instr.attrs.get("axis", -1)))


@emits("attention")
def attention(b: Builder, instr: Instr) -> None:
    q, k, v, mask = instr.operands
    assert isinstance(q, Register | ConstRef) and isinstance(k, Register | ConstRef)
    assert isinstance(v, Register | ConstRef)
    batch, heads, rows, size = q.type.shape
    kv_heads, length, out_size = k.type.shape[1], k.type.shape[2], v.type.shape[3]
    group = heads // kv_heads
    scale = float(instr.attrs.get("scale", 1.0))  # type: ignore[arg-type]
    softcap = float(instr.attrs.get("softcap", 0.0))  # type: ignore[arg-type]
    query = b.value(q)
    if scale != 1.0:
        query = b.node("Mul", query, b.scalar(scale, DType.F32), step="scale")
    if group > 1:
        query = b.reshape(query, (batch, kv_heads, group * rows, size))
    scores = b.node("MatMul", query, b.transposed(k, (0, 1, 3, 2)), step="scores")
    if softcap:
        scores = b.node("Mul", scores, b.scalar(1 / softcap, DType.F32), step="softcap")
        scores = b.node("Mul", b.node("Tanh", scores), b.scalar(softcap, DType.F32), step="softcap")
    bias = _bias(b, instr, mask, (heads, kv_heads, rows, length))
    if bias is not None:
        scores = b.node("Add", scores, bias, step="mask")
    y = b.node("MatMul", b.node("Softmax", scores, axis=-1), b.value(v), step="values")
    if group > 1:
        y = b.reshape(y, (batch, heads, rows, out_size))
    if instr.attrs.get("seq_major"):
        y = b.transpose(y, (batch, heads, rows, out_size), (0, 2, 1, 3))
    b.define(instr.results[0], y)


def _bias(b: Builder, instr: Instr, mask: Operand, sizes: tuple[int, int, int, int]) -> str | None:
    """What is added to the scores [batch, kv_heads, group * rows, length]; None if nothing is."""
    causal, window = bool(instr.attrs.get("causal")), int(instr.attrs.get("window", 0))  # type: ignore[arg-type]
    fixed = _band(sizes[2], sizes[3], causal, window)
    given = b.static(mask)
    if given is not None:
        given = _additive(given)
        fixed = given if fixed is None else np.maximum(given + fixed, _MASKED)
    name = None
    if fixed is not None:
        key = ("mask", mask.name if isinstance(mask, ConstRef) else "", causal, window, sizes)
        name = b.once(key, lambda: b.initializer(_grouped(fixed, sizes)))
    if isinstance(mask, Register):
        runtime = b.once(("mask", mask.id, sizes), lambda: _runtime(b, mask, sizes))
        if name is None:
            return runtime
        both = ("mask", mask.id, causal, window, sizes)
        fixed_name = name
        return b.once(both, lambda: b.node("Add", runtime, fixed_name, step="masks"))
    return name


def _band(rows: int, length: int, causal: bool, window: int) -> np.ndarray | None:
    """0 where row i may see column j by position, else -10000; None if it may everywhere."""
    if not causal and not window:
        return None
    distance = np.arange(rows)[:, None] + (length - rows) - np.arange(length)[None, :]
    allowed = distance >= 0 if causal else np.ones_like(distance, dtype=bool)
    if window:
        allowed &= distance < window
    return None if allowed.all() else _additive(allowed)


def _additive(mask: np.ndarray) -> np.ndarray:
    """A mask as rank-4 numbers to add, none below -10000."""
    values = np.where(mask, 0.0, _MASKED) if mask.dtype == np.bool_ else mask.astype(np.float32)
    values = np.maximum(values, _MASKED).astype(np.float32)
    return values.reshape((1,) * (4 - values.ndim) + values.shape)


def _grouped(mask: np.ndarray, sizes: tuple[int, int, int, int]) -> np.ndarray:
    """A mask [b, 1 or heads, 1 or rows, length] for scores whose rows are those of a group of heads."""
    heads, kv_heads, rows, _ = sizes
    group = heads // kv_heads
    if group == 1 or mask.shape[1] == mask.shape[2] == 1:
        return mask
    if mask.shape[1] == 1:
        return np.tile(mask, (1, 1, group, 1)) if mask.shape[2] == rows else mask
    full = np.broadcast_to(mask, (mask.shape[0], heads, rows, mask.shape[3]))
    return full.reshape(mask.shape[0], kv_heads, group * rows, mask.shape[3])


def _runtime(b: Builder, mask: Register, sizes: tuple[int, int, int, int]) -> str:
    """:func:`_additive` and :func:`_grouped` of a mask that is computed in the segment."""
    heads, kv_heads, rows, _ = sizes
    group = heads // kv_heads
    shape = (1,) * (4 - mask.type.rank) + mask.type.shape
    name = b.value(mask, shape)
    if mask.type.dtype is DType.BOOL:
        name = b.node("Mul", b.cast(name, DType.F32), b.scalar(-_MASKED, DType.F32), step="mask")
        name = b.node("Add", name, b.scalar(_MASKED, DType.F32), step="mask")
    if group == 1 or shape[1] == shape[2] == 1:
        return name
    if shape[1] == 1:
        return b.node("Concat", *[name] * group, axis=2, step="mask_rows") if shape[2] == rows else name
    if shape[2] != rows:
        name = b.node("Expand", name, b.ints((shape[0], heads, rows, shape[3])))
    return b.reshape(name, (shape[0], kv_heads, group * rows, shape[3]))


@emits("rope")
def rope(b: Builder, instr: Instr) -> None:
    """By its definition: HTP's own kernel wants one angle for a pair of channels, and has no cost model."""
    x, cos, sin = instr.operands
    assert isinstance(x, Register | ConstRef) and isinstance(cos, Register | ConstRef)
    interleaved = bool(instr.attrs.get("interleaved"))
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
