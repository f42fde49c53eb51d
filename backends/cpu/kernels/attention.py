"""Attention and rotary embedding.

Attention walks over blocks of (batch, kv heads, query rows) whose scores fit :data:`SCORE_BYTES`, so that a
block stays in the cache and the scratch does not grow with the square of the length. Within a block the scale
is applied to the queries, masking writes -inf, the exponentials are multiplied with the values first, and the
few results are divided by the row sums last. A causal or windowed block reads only the columns that its rows
can see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .matrix import blas_ready
from .normalisation import softmax_in_place
from .registry import Array, Call, Step, is_blas_float, kernel

__all__: list[str] = []

SCORE_BYTES = 2 * 2**20
"""Bytes of scores that one block may have; a block has at least one row of one kv head's group."""


@dataclass(frozen=True)
class _Block:
    """Arrays of one block; heads are split into [kv head, group]."""

    queries: Array
    scaled: Array
    keys: Array
    values: Array
    scores: Array
    sums: Array
    added: Array | None
    allowed: Array | None
    forbidden: Array | None
    hidden: Array | None
    out: Array


@kernel("attention")
def _attention(call: Call) -> Step | None:
    q = call.array(0)
    if not is_blas_float(q) or not call.out.size or not call.array(1).size or call.inputs[4] is not None:
        return None
    k, prepare_k = blas_ready(call.array(1), call)
    v, prepare_v = blas_ready(call.array(2), call)
    prepares = [prepare for prepare in (prepare_k, prepare_v) if prepare is not None]
    blocks = list(_blocks(call, q, k, v))
    scale, cap = q.dtype.type(call.attrs["scale"]), q.dtype.type(call.attrs["softcap"])
    boolean = call.inputs[3] is not None and call.inputs[3].dtype == np.bool_
    masked = boolean or call.attrs["causal"] or call.attrs["window"] > 0

    def step() -> None:
        for prepare in prepares:
            prepare()
        for block in blocks:
            scores = block.scores
            np.multiply(block.queries, scale, block.scaled)
            np.matmul(block.scaled, block.keys, scores)
            if cap:
                np.divide(scores, cap, scores)
                np.tanh(scores, scores)
                np.multiply(scores, cap, scores)
            if block.added is not None:
                np.add(scores, block.added, scores)
            if block.allowed is not None and block.forbidden is not None:
                np.logical_not(block.allowed, block.forbidden)
                np.copyto(scores, -np.inf, where=block.forbidden)
            if block.hidden is not None:
                np.copyto(scores, -np.inf, where=block.hidden)
            softmax_in_place(scores, block.sums, masked)
            np.matmul(scores, block.values, block.out)
            np.divide(block.out, block.sums, block.out)

    return step


def _blocks(call: Call, q: Array, k: Array, v: Array) -> Iterator[_Block]:
    batch, heads, rows, size = q.shape
    kv_heads, length = k.shape[1:3]
    group = heads // kv_heads
    out = call.out.swapaxes(1, 2) if call.attrs["seq_major"] else call.out
    mask = call.inputs[3]
    if mask is not None:
        mask = np.broadcast_to(mask, (batch, heads, rows, length))
    row_count = max(1, min(rows, SCORE_BYTES // (group * max(length, 1) * q.itemsize)))
    head_count = max(1, min(kv_heads, SCORE_BYTES // (group * row_count * max(length, 1) * q.itemsize)))
    full = head_count * group * row_count
    score_memory = call.scratch.take((full * length,), q.dtype)
    query_memory = call.scratch.take((full * size,), q.dtype)
    sum_memory = call.scratch.take((full,), q.dtype)
    mask_memory = None if mask is None else call.scratch.take((full * length,), np.dtype(np.bool_))

    for first in range(0, rows, row_count):
        r = slice(first, min(first + row_count, rows))
        columns, hidden = _visible(call, r, rows, length)
        for b in range(batch):
            for head in range(0, kv_heads, head_count):
                kv = slice(head, min(head + head_count, kv_heads))
                h = slice(kv.start * group, kv.stop * group)
                shape = (kv.stop - kv.start, group, r.stop - r.start)
                width = columns.stop - columns.start
                part = None if mask is None else mask[b, h, r, columns].reshape(*shape, width)
                boolean = part is not None and part.dtype == np.bool_
                yield _Block(
                    queries=q[b, h, r].reshape(*shape, size),
                    scaled=_front(query_memory, (*shape, size)),
                    keys=k[b, kv, None, columns].swapaxes(-1, -2),
                    values=v[b, kv, None, columns],
                    scores=_front(score_memory, (*shape, width)),
                    sums=_front(sum_memory, (*shape, 1)),
                    added=None if boolean else part,
                    allowed=part if boolean else None,
                    forbidden=_front(mask_memory, (*shape, width))
                    if boolean and mask_memory is not None
                    else None,
                    hidden=hidden,
                    out=out[b, h, r].reshape(*shape, v.shape[3]),
                )


def _front(memory: Array, shape: tuple[int, ...]) -> Array:
    return memory[: int(np.prod(shape))].reshape(shape)


def _visible(call: Call, r: slice, rows: int, length: int) -> tuple[slice, Array | None]:
    """Columns that the query rows ``r`` can see at all, and a mask of those that single rows cannot."""
    causal, window = call.attrs["causal"], call.attrs["window"]
    shift = length - rows
    stop = min(max(r.stop + shift, 0), length) if causal else length
    start = min(max(r.start + shift - window + 1, 0), stop) if window else 0
    if not causal and not window:
        return slice(start, stop), None
    distance = np.arange(r.start, r.stop)[:, None] + shift - np.arange(start, stop)[None, :]
    hidden = distance < 0 if causal else np.zeros(distance.shape, np.bool_)
    if window:
        hidden |= distance >= window
    return slice(start, stop), hidden if hidden.any() else None


@kernel("rope")
def _rope(call: Call) -> Step | None:
    x, cos, sin, out = call.array(0), call.array(1), call.array(2), call.out
    if not is_blas_float(x):
        return None
    size = cos.shape[-1]
    half = size // 2
    if call.attrs["interleaved"]:
        first, second = slice(0, size, 2), slice(1, size, 2)
    else:
        first, second = slice(0, half), slice(half, size)
    x1, x2, y1, y2 = x[..., first], x[..., second], out[..., first], out[..., second]
    cos1, cos2, sin1, sin2 = cos[..., first], cos[..., second], sin[..., first], sin[..., second]
    rest = slice(size, x.shape[-1])
    x_rest, y_rest = x[..., rest], out[..., rest]
    work = call.scratch.take(x1.shape, x.dtype)

    def step() -> None:
        np.multiply(x1, cos1, y1)
        np.multiply(x2, sin1, work)
        np.subtract(y1, work, y1)
        np.multiply(x2, cos2, y2)
        np.multiply(x1, sin2, work)
        np.add(y2, work, y2)
        y_rest[...] = x_rest

    return step
