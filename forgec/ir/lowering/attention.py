"""Converters of attention and softmax."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..types import DType
from .builder import FunctionBuilder
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
    b: FunctionBuilder, query: Any, key: Any, value: Any, attn_mask: Any, is_causal: bool, scale: float | None
) -> Any:
    """torch's causal mask is aligned to the first column, the IR's to the last: alike only for square
    scores."""
    rows, length = query.type.shape[-2], key.type.shape[-2]
    if is_causal and rows != length:
        attn_mask, is_causal = b.tensor(torch.ones(rows, length, dtype=torch.bool).tril()), False
    result = (*query.type.shape[:-1], value.type.shape[-1])
    four = [_rank_four(b, x) for x in (query, key, value)]
    if attn_mask is not None and attn_mask.type.dtype not in (DType.BOOL, query.type.dtype):
        attn_mask = b.cast(attn_mask, query.type.dtype)
    if scale is None:
        scale = 1 / math.sqrt(query.type.shape[-1])
    y = b.emit("attention", *four, attn_mask, scale=scale, causal=is_causal)
    return b.reshape(y, result)


def _rank_four(b: FunctionBuilder, x: Any) -> Any:
    lead = x.type.shape[:-3]
    if len(lead) > 1:
        return b.reshape(x, (math.prod(lead), *x.type.shape[-3:]))
    return b.reshape(x, (1,) * (4 - x.type.rank) + x.type.shape)
