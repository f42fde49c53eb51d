"""The fused ops that passes put into FX graphs, as functions on torch tensors.

Each has the name, operands and attributes of the IR op that it becomes, so lowering maps them one to one. The
bodies define the meaning in torch's terms; they run when a graph is evaluated for a check, never in an
artifact. What operands an op takes is its IR record's to say: :func:`takes` asks it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from ..graph import node_type
from ..ir.op import IRTypeError, get
from ..ir.types import TensorType

__all__ = [
    "FUSED",
    "add_layer_norm",
    "add_rms_norm",
    "attention",
    "expert_linear",
    "gated",
    "linear",
    "rms_norm",
    "rope",
    "takes",
]


def takes(
    target: Callable[..., Any],
    operands: Sequence[fx.Node | TensorType | None],
    attrs: dict[str, Any],
    result: TensorType | tuple[TensorType, ...],
) -> bool:
    """Whether a fused op takes operands of these types and gives results of these types."""
    kinds = [node_type(x) if isinstance(x, fx.Node) else x for x in operands]
    try:
        found = get(target.__name__).result_types(kinds, attrs)
    except IRTypeError:
        return False
    return found == (result if isinstance(result, tuple) else (result,))


def _activate(x: Tensor, act: str) -> Tensor:
    if act == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": F.gelu, "relu": F.relu, "silu": F.silu, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    }  # fmt: skip
    return functions[act](x) if act else x


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, act: str = ""
) -> Tensor:
    """act(x @ weight.T + bias) + residual."""
    y = _activate(F.linear(x, weight, bias), act)
    return y if residual is None else y + residual


def expert_linear(x: Tensor, weight: Tensor, ids: Tensor, experts: int) -> Tensor:
    """x[r] @ weight[ids[r]].T, with the weights of all experts one after the other."""
    of_rows = weight.reshape(experts, weight.shape[0] // experts, x.shape[1])[ids]
    return torch.bmm(of_rows, x.unsqueeze(-1)).squeeze(-1)


def gated(gate: Tensor, up: Tensor, act: str = "silu") -> Tensor:
    """act(gate) * up."""
    return _activate(gate, act) * up


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return y if weight is None else y * weight


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None = None, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """x + residual, and its rms_norm."""
    total = x + residual
    return total, rms_norm(total, weight, eps)


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """x + residual, and its layer norm over the last axis."""
    total = x + residual
    return total, F.layer_norm(total, total.shape[-1:], weight, bias, eps)


def rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Rotary embedding of the first cos.shape[-1] channels; see the IR op."""
    size = cos.shape[-1]
    head, rest = x[..., :size], x[..., size:]
    if interleaved:
        rotated = torch.stack((-head[..., 1::2], head[..., 0::2]), dim=-1).flatten(-2)
    else:
        rotated = torch.cat((-head[..., size // 2 :], head[..., : size // 2]), dim=-1)
    return torch.cat((head * cos + rotated * sin, rest), dim=-1)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    scale: float = 1.0,
    causal: bool = False,
    window: int = 0,
    softcap: float = 0.0,
    seq_major: bool = False,
    length: Tensor | None = None,
) -> Tensor:
    """softmax(softcap(scale * q k^T) + mask) v with grouped heads; see the IR op."""
    k, v = k.to(q.dtype), v.to(q.dtype)
    if length is not None:
        filled = int(length)
        k, v = k[:, :, :filled], v[:, :, :filled]
        mask = mask[..., :filled] if mask is not None and mask.shape[-1] > 1 else mask
    groups = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(groups, 1).transpose(-1, -2) * scale
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    rows, keys = scores.shape[-2:]
    distance = torch.arange(rows)[:, None] + (keys - rows) - torch.arange(keys)[None, :]
    allowed = torch.ones_like(distance, dtype=torch.bool)
    if causal:
        allowed &= distance >= 0
    if window:
        allowed &= distance < window
    if mask is not None and mask.dtype == torch.bool:
        allowed = allowed & mask
    elif mask is not None:
        scores = scores + mask
    weights = torch.softmax(scores.masked_fill(~allowed, -torch.inf), -1).nan_to_num(0.0)
    y = weights @ v.repeat_interleave(groups, 1)
    return y.transpose(1, 2) if seq_major else y


FUSED = (add_layer_norm, add_rms_norm, attention, expert_linear, gated, linear, rms_norm, rope)
