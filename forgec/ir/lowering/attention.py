"""Converters of attention and softmax."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..types import DType, TensorType
from .builder import FunctionBuilder
from .elementwise import refuse_dropout
from .registry import lowers


@lowers("aten.softmax", "aten._softmax")
def softmax(b: FunctionBuilder, self: Any, dim: int) -> Any:
    return b.emit("softmax", _float(b, self), axis=dim)


@lowers("aten.log_softmax", "aten._log_softmax")
def log_softmax(b: FunctionBuilder, self: Any, dim: int) -> Any:
    return b.emit("log_softmax", _float(b, self), axis=dim)


def _float(b: FunctionBuilder, x: Any) -> Any:
    assert b.result_type is not None and not isinstance(b.result_type, tuple)
    return b.cast(x, b.result_type.dtype)


@lowers("aten.scaled_dot_product_attention")
def scaled_dot_product_attention(
    b: FunctionBuilder,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> Any:
    """torch's causal mask is aligned to the first column, the IR's to the last: alike only for square
    scores."""
    refuse_dropout(dropout_p, True)
    assert isinstance(b.result_type, TensorType)
    rows, length = query.type.shape[-2], key.type.shape[-2]
    if is_causal and rows != length:
        attn_mask, is_causal = b.tensor(torch.ones(rows, length, dtype=torch.bool).tril()), False
    lead = b.result_type.shape[:-3]
    heads = max(key.type.shape[-3:-2], value.type.shape[-3:-2])
    q = _rank_four(b, query, (*lead, *query.type.shape[-3:-2]))
    k, v = (_rank_four(b, x, (*lead, *heads)) for x in (key, value))
    if attn_mask is not None and attn_mask.type.dtype not in (DType.BOOL, query.type.dtype):
        attn_mask = b.cast(attn_mask, query.type.dtype)
    if attn_mask is not None and attn_mask.type.rank > 4:
        attn_mask = _rank_four(b, attn_mask, (*lead, *attn_mask.type.shape[-3:-2]))
    if scale is None:
        scale = 1 / math.sqrt(query.type.shape[-1])
    y = b.emit("attention", q, k, v, attn_mask, None, scale=scale, causal=is_causal)
    return b.reshape(y, b.result_type.shape)


def _rank_four(b: FunctionBuilder, x: Any, lead: tuple[int, ...]) -> Any:
    """x as [batch, heads, rows, size], broadcast to the leading axes ``lead`` (batch axes and heads)."""
    if x.type.shape[:-2] != lead:
        x = b.emit("expand", x, shape=(*lead, *x.type.shape[-2:]))
    if len(lead) > 2:
        lead = (math.prod(lead[:-1]), lead[-1])
    return b.reshape(x, (*(1,) * (2 - len(lead)), *lead, *x.type.shape[-2:]))
