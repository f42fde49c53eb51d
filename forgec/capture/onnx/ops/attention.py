"""Attention and rotary embeddings, of the standard and of ONNX Runtime.

Everything becomes ``scaled_dot_product_attention``; soft-capped scores are written out, in the form that the
passes fuse again. Caches are inputs and outputs: new rows go behind all rows of one, as the standard has it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import CONTRIB, Unsupported, converts


def _heads(x: Tensor, count: int) -> Tensor:
    """[B, S, H * D] as [B, H, S, D]."""
    batch, rows, size = x.shape
    return x.reshape(batch, rows, count, size // count).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    """[B, H, S, D] as [B, S, H * D]."""
    batch, heads, rows, size = x.shape
    return x.transpose(1, 2).reshape(batch, rows, heads * size)


def _causal(rows: int, length: int, offset: int) -> Tensor:
    """Boolean [rows, length]: whether a row sees a column."""
    return torch.arange(length)[None, :] <= torch.arange(rows)[:, None] + offset


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: int | None, softcap: float
) -> Tensor:
    """Attention over [B, H, S, D]; ``mask`` is boolean or added, ``causal`` how many columns are before row
    0."""
    scale = scale or 1 / math.sqrt(q.shape[-1])
    rows, length, grouped = q.shape[2], k.shape[2], q.shape[1] != k.shape[1]
    plain = causal == 0 and rows == length and mask is None
    if causal is not None and not (plain and not softcap):
        seen = _causal(rows, length, causal)
        if mask is None:
            mask = seen
        else:
            mask = mask & seen if mask.dtype is torch.bool else mask.masked_fill(~seen, float("-inf"))
    if not softcap:
        only_causal = plain and causal == 0
        return F.scaled_dot_product_attention(
            q, k, v, None if only_causal else mask, is_causal=only_causal, scale=scale, enable_gqa=grouped
        )
    if grouped:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = softcap * torch.tanh(torch.matmul(q, k.transpose(2, 3)) * scale / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype is torch.bool else scores + mask
    return torch.matmul(torch.softmax(scores, -1), v)


@converts("Attention", since=23)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    outputs: int,
    is_causal: int = 0,
    kv_num_heads: int = 0,
    q_num_heads: int = 0,
    qk_matmul_output_mode: int = 0,
    scale: float = 0.0,
    softcap: float = 0.0,
    softmax_precision: int = 0,
    left_window_size: int = -1,
    right_window_size: int = -1,
) -> Any:
    if outputs > 3 or lengths is not None:
        raise Unsupported("scores as an output" if outputs > 3 else "nonpad_kv_seqlen")
    flat = q.ndim == 3
    if flat:
        q, k, v = _heads(q, q_num_heads), _heads(k, kv_num_heads), _heads(v, kv_num_heads)
    before = 0
    if past_key is not None and past_value is not None:
        before = past_key.shape[2]
        k, v = torch.cat((past_key, k), 2), torch.cat((past_value, v), 2)
    if mask is not None:
        missing = k.shape[2] - mask.shape[-1]
        if missing and mask.shape[-1] != 1:
            fill = False if mask.dtype is torch.bool else float("-inf")
            mask = F.pad(mask, (0, missing), value=fill)
    if left_window_size >= 0 or right_window_size >= 0:
        rows, length = q.shape[2], k.shape[2]
        near = torch.ones(rows, length, dtype=torch.bool)
        if left_window_size >= 0:
            near = near & ~_causal(rows, length, before - left_window_size - 1)
        if right_window_size >= 0:
            near = near & _causal(rows, length, before + right_window_size)
        if mask is None:
            mask = near
        else:
            mask = mask & near if mask.dtype is torch.bool else mask.masked_fill(~near, float("-inf"))
    y = _attend(q, k, v, mask, scale, before if is_causal else None, softcap)
    y = _joined(y) if flat else y
    return y if outputs == 1 else (y, k, v)[:outputs]


@converts("Attention", domain=CONTRIB)
def contrib_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    attention_bias: Tensor | None = None,
    *,
    outputs: int,
    num_heads: int,
    unidirectional: int = 0,
    mask_filter_value: float = -10000.0,
    scale: float = 0.0,
    qkv_hidden_sizes: Any = None,
    do_rotary: int = 0,
    past_present_share_buffer: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    if past is not None or outputs > 1 or do_rotary:
        raise Unsupported("a cache or rotary embedding inside")
    total = weight.shape[1]
    sizes = list(qkv_hidden_sizes or [total // 3] * 3)
    joined = torch.matmul(x, weight)
    joined = joined if bias is None else joined + bias
    q, k, v = (_heads(part, num_heads) for part in joined.split(sizes, -1))
    added = _padding(mask, x.shape[0], k.shape[2], mask_filter_value, attention_bias)
    return _joined(_attend(q, k, v, added, scale, 0 if unidirectional else None, 0.0))


@converts("MultiHeadAttention", domain=CONTRIB)
def multi_head_attention(
    q: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    attention_bias: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *,
    outputs: int,
    num_heads: int,
    unidirectional: int = 0,
    mask_filter_value: float = -10000.0,
    scale: float = 0.0,
) -> Any:
    if outputs > 3:
        raise Unsupported("scores as an output")
    if k is None and q.ndim == 5:  # [B, S, H, 3, D]
        q, k, v = (part.reshape(*q.shape[:2], -1) for part in q.unbind(3))
    if k is None or v is None or k.ndim != 3 or v.ndim != 3:
        raise Unsupported("packed keys and values, or keys in heads")
    if bias is not None:
        sizes = [q.shape[-1], k.shape[-1], v.shape[-1]]
        q, k, v = (x + b for x, b in zip((q, k, v), bias.split(sizes), strict=True))
    q, k, v = _heads(q, num_heads), _heads(k, num_heads), _heads(v, num_heads)
    before = 0
    if past_key is not None and past_value is not None:
        before = past_key.shape[2]
        k, v = torch.cat((past_key, k), 2), torch.cat((past_value, v), 2)
    added = _padding(mask, q.shape[0], k.shape[2], mask_filter_value, attention_bias)
    y = _joined(_attend(q, k, v, added, scale, before if unidirectional else None, 0.0))
    return y if outputs == 1 else (y, k, v)[:outputs]


def _padding(mask: Tensor | None, batch: int, length: int, fill: float, bias: Tensor | None) -> Tensor | None:
    """What is added to the scores: a mask over columns (0 is padding; of rank one, lengths), and a bias."""
    if mask is None:
        return bias
    if mask.ndim == 1:
        if mask.shape[0] != batch:
            raise Unsupported("a mask of starts and ends")
        mask = torch.arange(length)[None, :] < mask[:, None]
    if mask.ndim not in (2, 3):
        raise Unsupported(f"a mask of rank {mask.ndim}")
    mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
    added = torch.where(mask == 0, fill, 0.0)
    return added if bias is None else added + bias


@converts("GroupQueryAttention", domain=CONTRIB)
def group_query_attention(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    lengths: Tensor,
    total: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    position_ids: Tensor | None = None,
    attention_bias: Tensor | None = None,
    *,
    outputs: int,
    num_heads: int,
    kv_num_heads: int,
    do_rotary: int = 0,
    rotary_interleaved: int = 0,
    scale: float = 0.0,
    softcap: float = 0.0,
    local_window_size: int = -1,
    smooth_softmax: int = 0,
    qk_output: int = 0,
) -> Any:
    """Without a cache, rows behind a text's length are padding: nothing that is kept depends on them, because
    it is causal. Of a cache the last rows count, as many as the length says are before the new ones."""
    if outputs > 3 or smooth_softmax > 0:
        raise Unsupported("scores as an output, or smooth softmax")
    if k is None or v is None:
        size = q.shape[-1] // (num_heads + 2 * kv_num_heads)
        q, k, v = q.split([num_heads * size, kv_num_heads * size, kv_num_heads * size], -1)
    q, k, v = _heads(q, num_heads), _heads(k, kv_num_heads), _heads(v, kv_num_heads)
    rows, held = q.shape[2], 0 if past_key is None else past_key.shape[2]
    new = torch.arange(rows)[None]
    if held:
        new = new + (lengths.reshape(-1, 1).long() + 1 - rows)
    if do_rotary and cos is not None and sin is not None:
        if position_ids is None:
            position_ids = new.clamp(max=cos.shape[0] - 1)
        q = _rotated(q, cos, sin, position_ids, bool(rotary_interleaved), 0)
        k = _rotated(k, cos, sin, position_ids, bool(rotary_interleaved), 0)
    seen = None
    if held and past_key is not None and past_value is not None:
        k, v = torch.cat((past_key, k), 2), torch.cat((past_value, v), 2)
        seen = _seen_of_cache(new, held, local_window_size)
    elif local_window_size > 0:
        seen = ~_causal(rows, rows, -local_window_size)
    mask = attention_bias
    if seen is not None:
        mask = seen if mask is None else mask.masked_fill(~seen, float("-inf"))
    y = _joined(_attend(q, k, v, mask, scale, None if held else 0, softcap))
    return y if outputs == 1 else (y, k, v)[:outputs]


def _seen_of_cache(new: Tensor, held: int, window: int) -> Tensor:
    """Boolean [B, 1, T, held + T]: which of a cache's rows, and of the rows behind it, rows at the positions
    ``new`` [B, T] see."""
    at = (torch.arange(held + new.shape[1])[None] - held + new[:, :1])[:, None, :]
    seen = (at >= 0) & (at <= new[:, :, None])
    if window > 0:
        seen = seen & (at > new[:, :, None] - window)
    return seen[:, None]


@converts("RotaryEmbedding", since=23)
def rotary_embedding(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    position_ids: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    flat = x.ndim == 3
    x = _heads(x, num_heads) if flat else x
    y = _rotated(x, cos, sin, position_ids, bool(interleaved), rotary_embedding_dim)
    return _joined(y) if flat else y


@converts("RotaryEmbedding", domain=CONTRIB)
def contrib_rotary_embedding(
    x: Tensor,
    position_ids: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
    is_packed_batching: int = 0,
) -> Tensor:
    if scale != 1 or is_packed_batching:
        raise Unsupported("a scale, or packed batches")
    if position_ids.ndim == 1:  # the position of the first row
        position_ids = position_ids + torch.arange(x.shape[-2])[None]
    flat = x.ndim == 3
    if flat:
        x = _heads(x, num_heads or x.shape[-1] // (2 * cos.shape[-1]))
    y = _rotated(x, cos, sin, position_ids, bool(interleaved), rotary_embedding_dim)
    return _joined(y) if flat else y


def _rotated(
    x: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None, interleaved: bool, size: int
) -> Tensor:
    """Rotary embedding of [B, H, S, D] by tables [P, D/2] looked up at positions, or rows [B, S, D/2]."""
    if position_ids is not None:
        cos, sin = F.embedding(position_ids, cos), F.embedding(position_ids, sin)
    if size and size != x.shape[-1]:
        turned = _turned(x[..., :size], cos, sin, interleaved)
        return torch.cat((turned, x[..., size:]), -1)
    return _turned(x, cos, sin, interleaved)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    if interleaved:
        cos, sin = (t.repeat_interleave(2, -1).unsqueeze(1) for t in (cos, sin))
        swapped = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    else:
        cos, sin = (torch.cat((t, t), -1).unsqueeze(1) for t in (cos, sin))
        half = x.shape[-1] // 2
        swapped = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * cos + swapped * sin
