"""What the tests of attention fusion are written with."""

from __future__ import annotations

import torch
from pass_checks import counts, fused, redraw, values
from torch.nn import functional as F

__all__ = ["MIN", "NAME", "additive", "causal", "only_attention", "padded", "qkv", "repeat_kv", "written_out"]


NAME = "attention_fusion"
MIN = torch.finfo(torch.float32).min


def causal(rows: int, length: int | None = None, window: int = 0) -> torch.Tensor:
    """True where row i may see column j; rows are the last ones of ``length``."""
    length = length or rows
    distance = torch.arange(rows)[:, None] + (length - rows) - torch.arange(length)[None, :]
    return (distance >= 0) & (distance < window) if window else distance >= 0


def additive(mask: torch.Tensor, low: float = MIN) -> torch.Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, low)


def repeat_kv(x: torch.Tensor, n: int) -> torch.Tensor:
    """As transformers repeats keys and values."""
    batch, heads, length, size = x.shape
    return x[:, :, None].expand(batch, heads, n, length, size).reshape(batch, heads * n, length, size)


def qkv(batch=2, heads=4, kv_heads=None, rows=5, length=None, size=8, dtype=torch.float32):
    shape = (batch, kv_heads or heads, length or rows, size)
    return (
        values(batch, heads, rows, size, dtype=dtype),
        values(*shape, seed=1, dtype=dtype),
        values(*shape, seed=2, dtype=dtype),
    )


def written_out(q, k, v, *, scale=0.3, terms=(), fill=None, softcap=0.0, wide=None):
    scores = torch.matmul(q, k.transpose(2, 3)) * scale
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    for term in terms:
        scores = scores + term
    if fill is not None:
        scores = scores.masked_fill(*fill)
    weights = F.softmax(scores, dim=-1, dtype=wide).to(q.dtype)
    return torch.matmul(F.dropout(weights, 0.1, training=False), v)


def padded(generator: torch.Generator, example):
    """Redrawn inputs whose boolean mask leaves something in every row."""
    drawn = redraw(example, generator)
    for x in drawn:
        if x.dtype is torch.bool:
            x[..., 0] = True
    return drawn


def only_attention(graph) -> dict:
    """The attributes of the one attention that is left."""
    (node,) = fused(graph, "attention")
    for gone in ("softmax", "matmul", "scaled_dot_product_attention"):
        assert counts(graph)[gone] == 0
    return {**node.kwargs, "mask": node.args[3]}
