"""Attention, softmax and rotary position embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..op import Sample, op
from ..types import DType, TensorType
from .rules import broadcast_shapes, normalise_axis, require, require_float

Array = np.ndarray


def _x(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def _softmax(x: Array, axis: int) -> Array:
    shifted = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return shifted / shifted.sum(axis=axis, keepdims=True)


def _softmax_rule(x: TensorType | None, *, axis: int) -> TensorType:
    t = require_float(x)
    normalise_axis(axis, t.rank)
    return t


@op(
    "softmax",
    "x",
    rule=_softmax_rule,
    attrs={"axis": -1},
    flops=lambda types, results, attrs: 5.0 * results[0].numel,
    samples=lambda rng: [Sample((_x(rng, 2, 3, 5),), {}), Sample((_x(rng, 2, 3, 5),), {"axis": 1})],
)
def softmax(x: Array, *, axis: int) -> Array:
    """exp(x) / sum(exp(x)) on one axis, shifted by the maximum."""
    return _softmax(x, axis)


@op(
    "log_softmax",
    "x",
    rule=_softmax_rule,
    attrs={"axis": -1},
    flops=lambda types, results, attrs: 5.0 * results[0].numel,
    samples=lambda rng: [Sample((_x(rng, 2, 3, 5),), {})],
)
def log_softmax(x: Array, *, axis: int) -> Array:
    """Logarithm of softmax on one axis."""
    shifted = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def _attention_rule(
    q: TensorType | None,
    k: TensorType | None,
    v: TensorType | None,
    mask: TensorType | None,
    length: TensorType | None,
    *,
    scale: float,
    causal: bool,
    window: int,
    softcap: float,
    seq_major: bool,
    bounded: bool,
    bf16: bool,
) -> TensorType:
    query, key, value = require_float(q, "q"), require_float(k, "k"), require_float(v, "v")
    require(query.rank == key.rank == value.rank == 4, f"attention takes rank 4: {query}, {key}, {value}")
    batch, heads, rows, size = query.shape
    require(key.shape[0] == value.shape[0] == batch, f"batch sizes differ: {query}, {key}, {value}")
    require(key.shape[1] == value.shape[1], f"key {key} and value {value} differ in heads")
    require(
        key.shape[1] > 0 and heads % key.shape[1] == 0, f"{heads} query heads do not divide by {key.shape[1]}"
    )
    require(key.shape[3] == size, f"query {query} and key {key} differ in head size")
    require(key.shape[2] == value.shape[2], f"key {key} and value {value} differ in length")
    kept = key.dtype is value.dtype and key.dtype in (query.dtype, DType.F16)
    require(kept, f"keys and values are f16 or as queries are: {query}, {key}, {value}")
    require(window >= 0 and softcap >= 0, "window and softcap must not be negative")
    require(length in (None, TensorType(DType.I64, ())), f"length must be i64[], not {length}")
    scores = (batch, heads, rows, key.shape[2])
    if mask is not None:
        fits = broadcast_shapes(mask.shape, scores) == scores
        require(fits, f"mask {mask} does not broadcast to the scores {list(scores)}")
        require(
            mask.dtype in (DType.BOOL, query.dtype), f"mask must be bool or {query.dtype.value}, not {mask}"
        )
    shape = (batch, rows, heads, value.shape[3]) if seq_major else (batch, heads, rows, value.shape[3])
    return TensorType(query.dtype, shape)


def _attention_flops(
    types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]
) -> float:
    query, key, value = types[0], types[1], types[2]
    assert query is not None and key is not None and value is not None
    batch, heads, rows, size = query.shape
    return float(batch * heads * rows * key.shape[2]) * (2.0 * size + 2.0 * value.shape[3] + 5.0)


def _attention_samples(rng: np.random.Generator) -> list[Sample]:
    q, k, v = _x(rng, 2, 4, 5, 8), _x(rng, 2, 2, 7, 8), _x(rng, 2, 2, 7, 6)
    mask = rng.random((2, 1, 5, 7)) > 0.3
    mask[..., 0] = True
    bias = _x(rng, 1, 4, 5, 7)
    return [
        Sample((q, k, v, None, None), {"scale": 0.35}),
        Sample((q, k, v, mask, None), {"scale": 0.35, "seq_major": True}),
        Sample((q, k, v, bias, None), {"scale": 1.0, "softcap": 2.0}),
        Sample((q, k, v, None, None), {"scale": 0.35, "causal": True}),
        Sample((q, k, v, bias, None), {"scale": 0.35, "causal": True, "window": 3}),
        Sample((q.transpose(0, 2, 1, 3)[:, :4, :4].transpose(0, 2, 1, 3), k, v, None, None), {"scale": 0.1}),
        Sample((q, k, v, mask, np.array(6)), {"scale": 0.35}),
        Sample((q, k, v, bias, np.array(5)), {"scale": 0.35, "causal": True}),
        Sample((q[:, :, :1], k, v, mask[:, :, :1], np.array(2)), {"scale": 0.35}),
        Sample((q, k, v, bias, None), {"scale": 0.35, "bounded": True}),
        Sample((q[:, :, :1], k, v, mask[:, :, :1], None), {"scale": 0.35, "bf16": True}),
    ]


@op(
    "attention",
    "q k v mask? length?",
    rule=_attention_rule,
    attrs={
        "scale": 1.0,
        "causal": False,
        "window": 0,
        "softcap": 0.0,
        "seq_major": False,
        "bounded": False,
        "bf16": False,
    },
    flops=_attention_flops,
    samples=_attention_samples,
)
def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    length: Array | None,
    *,
    scale: float,
    causal: bool,
    window: int,
    softcap: float,
    seq_major: bool,
    bounded: bool,
    bf16: bool,
) -> Array:
    """softmax(softcap(scale * q k^T) + mask) v with grouped heads.

    q [batch, heads, rows, size], k [batch, kv_heads, columns, size], v [batch, kv_heads, columns,
    value_size]; query head h reads kv head h // (heads / kv_heads). Keys and values of f16 are widened to the
    type of q. Only the first ``length`` columns count, all of them without it; the others are not read,
    whatever they hold. A bool mask is true where attention is allowed, a float mask is added. ``causal`` lets
    row i see column j <= i + length - rows; ``window`` w > 0 also asks j > i + length - rows - w. A row whose
    scores are all masked (-inf) gives zeros. The result is [batch, heads, rows, value_size], or [batch, rows,
    heads, value_size] if ``seq_major``.
    ``bounded`` promises that a float mask has nothing below -3e4, so that 16 bits hold it with a score added.
    ``bf16`` allows a kernel to round the factors of both products, q and k, weights and v, to bf16, with sums
    and softmax as without it; the reference rounds nothing.
    """
    k, v = k.astype(q.dtype, copy=False), v.astype(q.dtype, copy=False)
    if length is not None:
        filled = slice(0, min(max(int(length), 0), k.shape[2]))
        k, v = k[:, :, filled], v[:, :, filled]
        if mask is not None and mask.ndim and mask.shape[-1] > 1:
            mask = mask[..., filled]
    batch, heads, rows, _ = q.shape
    kv_heads, columns = k.shape[1], k.shape[2]
    grouped = q.reshape(batch, kv_heads, heads // kv_heads, rows, q.shape[3])
    scores = np.matmul(grouped, k[:, :, None].swapaxes(-1, -2)) * q.dtype.type(scale)
    scores = scores.reshape(batch, heads, rows, columns)
    if softcap:
        scores = np.tanh(scores / q.dtype.type(softcap)) * q.dtype.type(softcap)
    if mask is not None and mask.dtype != np.bool_:
        scores = scores + mask
    allowed = mask if mask is not None and mask.dtype == np.bool_ else None
    if causal or window:
        distance = np.arange(rows)[:, None] + (columns - rows) - np.arange(columns)[None, :]
        near = (distance >= 0) if causal else np.ones_like(distance, dtype=bool)
        if window:
            near &= distance < window
        allowed = near if allowed is None else allowed & near
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    nothing = scores.max(axis=-1, keepdims=True, initial=-np.inf) == -np.inf
    weights = np.where(nothing, 0, _softmax(scores, -1)).astype(q.dtype)
    grouped_weights = weights.reshape(batch, kv_heads, heads // kv_heads, rows, columns)
    y = np.matmul(grouped_weights, v[:, :, None]).reshape(batch, heads, rows, v.shape[3])
    return np.ascontiguousarray(y.swapaxes(1, 2)) if seq_major else y


def _rope_rule(
    x: TensorType | None, cos: TensorType | None, sin: TensorType | None, *, interleaved: bool
) -> TensorType:
    t, c, s = require_float(x, "x"), require_float(cos, "cos"), require_float(sin, "sin")
    require(c == s, f"cos {c} and sin {s} must have one type")
    require(c.dtype is t.dtype, f"element types differ: {t} and {c}")
    require(t.rank >= 1 and c.rank >= 1 and c.shape[-1] % 2 == 0, f"rotary size must be even: {c}")
    require(c.shape[-1] <= t.shape[-1], f"rotary size {c.shape[-1]} is over the head size of {t}")
    head = (*t.shape[:-1], c.shape[-1])
    require(broadcast_shapes(c.shape, head) == head, f"cos {c} does not broadcast to {list(head)}")
    return t


@op(
    "rope",
    "x cos sin",
    rule=_rope_rule,
    attrs={"interleaved": False},
    flops=lambda types, results, attrs: 3.0 * results[0].numel,
    samples=lambda rng: [
        Sample((_x(rng, 2, 3, 5, 8), _x(rng, 1, 1, 5, 8), _x(rng, 1, 1, 5, 8)), {}),
        Sample((_x(rng, 2, 3, 5, 8), _x(rng, 5, 4), _x(rng, 5, 4)), {"interleaved": True}),
    ],
)
def rope(x: Array, cos: Array, sin: Array, *, interleaved: bool) -> Array:
    """Rotary embedding x * cos + rotate(x) * sin on the first cos.shape[-1] channels, the rest unchanged.

    rotate pairs channel i with i + size/2, or 2i with 2i + 1 if ``interleaved``; the first of a pair takes
    minus the second, the second takes the first.
    """
    size = cos.shape[-1]
    head = x[..., :size]
    rotated = np.empty_like(head)
    if interleaved:
        rotated[..., 0::2], rotated[..., 1::2] = -head[..., 1::2], head[..., 0::2]
    else:
        half = size // 2
        rotated[..., :half], rotated[..., half:] = -head[..., half:], head[..., :half]
    y = head * cos + rotated * sin
    return y if size == x.shape[-1] else np.concatenate([y, x[..., size:]], axis=-1)
