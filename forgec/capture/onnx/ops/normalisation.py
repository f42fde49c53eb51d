"""Normalisations, with and without a sum in front."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import CONTRIB, Unsupported, converts


def _one_output(outputs: int) -> None:
    if outputs > 1:
        raise Unsupported("mean and deviation as outputs")


@converts("LayerNormalization")
def layer_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    outputs: int,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Any:
    y = _layer_norm(x, scale, bias, axis % x.ndim, epsilon)
    if outputs == 1:
        return y
    axes = list(range(axis % x.ndim, x.ndim))
    mean = x.mean(axes, keepdim=True)
    deviation = torch.rsqrt(((x - mean) ** 2).mean(axes, keepdim=True) + epsilon)
    return (y, mean, deviation)[:outputs]


def _layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, epsilon: float) -> Tensor:
    shape = x.shape[axis:]
    if scale.shape != shape or (bias is not None and bias.shape != shape):
        y = F.layer_norm(x, shape, None, None, epsilon) * scale
        return y if bias is None else y + bias
    return F.layer_norm(x, shape, scale, bias, epsilon)


@converts("RMSNormalization", since=23)
def rms_norm(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    return _rms(x, scale, axis, epsilon)


def _rms(x: Tensor, scale: Tensor, axis: int, epsilon: float) -> Tensor:
    shape = x.shape[axis % x.ndim :]
    if scale.shape != shape:
        return F.rms_norm(x, shape, None, epsilon) * scale
    return F.rms_norm(x, shape, scale, epsilon)


@converts("SimplifiedLayerNormalization")
def simplified_layer_norm(
    x: Tensor,
    scale: Tensor,
    *,
    outputs: int,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    _one_output(outputs)
    return _rms(x, scale, axis, epsilon)


converts("SimplifiedLayerNormalization", domain=CONTRIB)(simplified_layer_norm)


def _sum(x: Tensor, skip: Tensor, bias: Tensor | None) -> Tensor:
    total = x + skip
    return total if bias is None else total + bias


@converts("SkipLayerNormalization", domain=CONTRIB)
def skip_layer_norm(
    x: Tensor,
    skip: Tensor,
    gamma: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    outputs: int,
    epsilon: float = 1e-12,
) -> Any:
    total = _sum(x, skip, bias)
    y = F.layer_norm(total, x.shape[-1:], gamma, beta, epsilon)
    return y if outputs == 1 else (y, None, None, total)


@converts("SkipSimplifiedLayerNormalization", domain=CONTRIB)
def skip_simplified_layer_norm(
    x: Tensor,
    skip: Tensor,
    gamma: Tensor,
    bias: Tensor | None = None,
    *,
    outputs: int,
    epsilon: float = 1e-12,
) -> Any:
    total = _sum(x, skip, bias)
    y = _rms(total, gamma, -1, epsilon)
    return y if outputs == 1 else (y, None, None, total)


@converts("EmbedLayerNormalization", domain=CONTRIB)
def embed_layer_norm(
    ids: Tensor,
    segments: Tensor | None,
    words: Tensor,
    positions: Tensor,
    kinds: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    *,
    outputs: int,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
) -> Any:
    if position_ids is None:
        position_ids = torch.arange(ids.shape[1], dtype=torch.int64)[None]
    total = F.embedding(ids, words) + F.embedding(position_ids, positions)
    if segments is not None and kinds is not None:
        total = total + F.embedding(segments, kinds)
    y = F.layer_norm(total, total.shape[-1:], gamma, beta, epsilon)
    if outputs == 1:
        return y
    lengths = torch.zeros(ids.shape[:1], dtype=torch.int32)
    if mask is not None:
        lengths = mask.sum(1).to(torch.int32)
    return (y, lengths, total)


@converts("BatchNormalization")
def batch_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    outputs: int,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: int = 0,
) -> Tensor:
    if training_mode or outputs > 1:
        raise Unsupported("training mode")
    view = [1, -1] + [1] * (x.ndim - 2)
    factor = scale / torch.sqrt(variance + epsilon)
    return x * factor.reshape(view) + (bias - mean * factor).reshape(view)


@converts("InstanceNormalization")
def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    view = [1, -1] + [1] * (x.ndim - 2)
    return F.layer_norm(x, x.shape[2:], None, None, epsilon) * scale.reshape(view) + bias.reshape(view)


@converts("GroupNormalization", since=21)
def group_norm(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@converts("GroupNormalization", since=18)
def old_group_norm(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5
) -> Tensor:
    """With a scale and a bias per group."""
    scale, bias = (p.repeat_interleave(x.shape[1] // num_groups) for p in (scale, bias))
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@converts("LpNormalization")
def lp_norm(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    norm = torch.sqrt((x * x).sum(axis, True)) if p == 2 else torch.abs(x).sum(axis, True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)
