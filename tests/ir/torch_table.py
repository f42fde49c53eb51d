"""What every IR op means, said once more in PyTorch, by other means than the records' numpy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

DTYPES = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "bool": torch.bool,
}
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "": lambda x: x,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def cache_mask(position: Any, mask: Any, rows: int, columns: int, causal: bool, window: int) -> Any:
    """One column at a time, by the place that it has in the cache."""
    at = int(position)
    given = torch.ones(1, 1, 1, 1, dtype=torch.bool) if mask is None else mask
    given = given[(None,) * (4 - given.ndim)]
    kind = given.dtype if given.dtype.is_floating_point else torch.float32
    given = given.expand(*given.shape[:2], rows, columns)
    added = torch.full((*given.shape[:2], rows, columns + rows), -3e4, dtype=kind)
    for row, column in itertools.product(range(rows), range(columns + rows)):
        place = column if column < columns else at + column - columns
        far = at + row - place
        if (column < columns and place >= at) or (causal and far < 0) or (window and far >= window):
            continue
        seen = given[:, :, row, place]
        zero = torch.zeros((), dtype=kind)
        value = torch.where(seen, zero, -3e4) if given.dtype == torch.bool else seen
        added[:, :, row, column] = value
    return added


def attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    filled: Any,
    scale: Any,
    causal: Any,
    window: Any,
    softcap: Any,
    seq_major: Any,
    bounded: Any,
    bf16: Any,
) -> Any:
    """One score at a time where it matters: the visible columns of a row are listed in a loop."""
    if filled is not None:
        columns = torch.arange(int(filled))
        k, v = k.index_select(2, columns), v.index_select(2, columns)
        mask = None if mask is None else mask.index_select(-1, columns)
    heads, rows, length = q.shape[1], q.shape[2], k.shape[2]
    repeat = heads // k.shape[1]
    k, v = k.double().repeat_interleave(repeat, 1), v.double().repeat_interleave(repeat, 1)
    scores = torch.einsum("bhid,bhjd->bhij", q.double(), k) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask.double()
    for i in range(rows):
        last = i + length - rows
        for j in range(length):
            if (causal and j > last) or (window and j <= last - window):
                scores[:, :, i, j] = -torch.inf
    y = torch.einsum("bhij,bhjd->bhid", torch.softmax(scores, -1).nan_to_num(0.0), v).to(q.dtype)
    return y.transpose(1, 2) if seq_major else y


def scales(weight: Any, bits: int, group: int) -> Any:
    """One group at a time: the element of the largest magnitude, the first one among equals' low and high."""
    parts = torch.split(weight.float(), group or weight.shape[1], dim=1)
    if bits == 8:
        return torch.stack([p.abs().amax(1) / 127 for p in parts])
    low, high = [p.amin(1) for p in parts], [p.amax(1) for p in parts]
    return torch.stack([torch.where(a.abs() >= b.abs(), a, b) / -8 for a, b in zip(low, high, strict=True)])


def spread(s: Any, width: int, group: int) -> Any:
    """Scales [groups, n] as [n, width]."""
    return s.T.repeat_interleave(group or width, dim=1)[:, :width]


def quantise(weight: Any, s: Any, offsets: Any = None, *, bits: int, group: int) -> Any:
    low, high = (-128, 127) if bits == 8 else (-8, 7)
    depth = weight.shape[1]
    rest = weight if offsets is None else weight - spread(offsets, depth, group)
    return torch.round(rest * spread(1 / s, depth, group)).nan_to_num(0).clamp(low, high).to(torch.int8)


def expert_linear(x: Any, weight: Any, ids: Any, experts: int) -> Any:
    of_all = weight.reshape(experts, -1, x.shape[1])
    return torch.stack([of_all[int(i)] @ row for row, i in zip(x, ids, strict=True)])


def expert_linear_q(x: Any, weight: Any, ids: Any, s: Any, experts: int, group: int) -> Any:
    wide = weight.float() if s is None else weight.float() * spread(s, weight.shape[1], group)
    return expert_linear(x, wide, ids, experts)


def narrow(weight: Any, *, dtype: str) -> Any:
    return weight.float().to(torch.bfloat16 if dtype == "bf16" else torch.float16)


def fitted_scales(weight: Any, gram: Any, bits: int, group: int) -> Any:
    """Every ratio for every group at once; gram is one block here."""
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    plain = scales(weight, bits, group)
    ratios = torch.tensor([1.15 - 0.025 * i for i in range(26)])
    errors = []
    for ratio in ratios:
        wide = spread(plain * ratio, weight.shape[1], group)
        error = (torch.round(weight / wide).clamp(low, high) * wide - weight) ** 2 * gram[0].diagonal()
        errors.append(torch.stack([e.sum(1) for e in torch.split(error, group or weight.shape[1], dim=1)]))
    return plain * ratios[torch.stack(errors).argmin(0)]


def fitted_codes(weight: Any, s: Any, gram: Any, bits: int, group: int) -> Any:
    """Column by column, and the least squares of what later columns can make up for solved anew each time.

    With the columns before fixed, the best later ones are the solution of G_bb d = -G_ba e.
    """
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    g = gram[0].double() + 0.01 * gram[0].double().diagonal().mean() * torch.eye(weight.shape[1])
    wide, left = spread(s.double(), weight.shape[1], group), weight.double().clone()
    codes = torch.zeros_like(left)
    for i in range(weight.shape[1]):
        codes[:, i] = torch.round(left[:, i] / wide[:, i]).clamp(low, high)
        error = codes[:, i] * wide[:, i] - left[:, i]
        if i + 1 < weight.shape[1]:
            left[:, i + 1 :] -= torch.outer(error, torch.linalg.solve(g[i + 1 :, i + 1 :], g[i + 1 :, i]))
    return codes.to(torch.int8)


def linear_q(
    x: Any, weight: Any, s: Any, bias: Any, residual: Any, act: str, group: int, dynamic: bool
) -> Any:
    w = weight.double() if s is None else weight.double() * spread(s.double(), weight.shape[1], group)
    rows = x.double()
    if dynamic:
        unit = x.abs().amax(-1, keepdim=True) / 127
        rows = torch.round(x * (127 / x.abs().amax(-1, keepdim=True))).double() * unit.double()
    y = ACTIVATIONS[act](F.linear(rows, w, None if bias is None else bias.double()))
    return (y if residual is None else y + residual.double()).to(x.dtype)


def embedding_q(table: Any, ids: Any, s: Any, group: int) -> Any:
    scales = 1 if s is None else spread(s, table.shape[1], group).float()
    return F.embedding(ids, table.float() * scales)


def rope(x: Any, cos: Any, sin: Any, interleaved: bool) -> Any:
    size = cos.shape[-1]
    head, rest = x[..., :size], x[..., size:]
    order = list(range(0, size, 2)) + list(range(1, size, 2)) if interleaved else list(range(size))
    first, second = order[: size // 2], order[size // 2 :]
    y = torch.empty_like(head)
    for a, b in zip(first, second, strict=True):
        y[..., a] = head[..., a] * cos[..., a] - head[..., b] * sin[..., a]
        y[..., b] = head[..., b] * cos[..., b] + head[..., a] * sin[..., b]
    return torch.cat([y, rest], -1)


def linear(x: Any, weight: Any, bias: Any, residual: Any, act: str) -> Any:
    y = ACTIVATIONS[act](F.linear(x, weight, bias))
    return y if residual is None else y + residual


def conv(x: Any, weight: Any, bias: Any, **attrs: Any) -> Any:
    return (F.conv1d if x.ndim == 3 else F.conv2d)(x, weight, bias, **attrs)


def pool(x: Any, kind: str, dilation: Any, include_padding: bool, **attrs: Any) -> Any:
    size, stride, padding, ceil = (attrs[key] for key in ("kernel", "stride", "padding", "ceil"))
    if kind == "max":
        return (F.max_pool1d if x.ndim == 3 else F.max_pool2d)(x, size, stride, padding, dilation, ceil)
    return (F.avg_pool1d if x.ndim == 3 else F.avg_pool2d)(x, size, stride, padding, ceil, include_padding)


def layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def rms_norm(x: Any, weight: Any, eps: float) -> Any:
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def scatter(x: Any, updates: Any, *indices: Any, accumulate: bool) -> Any:
    return x.index_put(indices, updates, accumulate)


def pad(x: Any, before: Any, after: Any, value: float) -> Any:
    pairs = zip(reversed(before), reversed(after), strict=True)
    return F.pad(x, [n for pair in pairs for n in pair], value=value)


def reduce(function: Callable[..., Any]) -> Callable[..., Any]:
    """Reduce one axis after the other, last first, kept until the end."""

    def apply(x: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
        chosen = sorted({axis % x.ndim for axis in axes}, reverse=True)
        for axis in chosen:
            x = function(x, axis)
        for axis in () if keepdims else chosen:
            x = x.squeeze(axis)
        return x

    return apply


TORCH: dict[str, Callable[..., Any]] = {
    "neg": torch.neg,
    "abs": torch.abs,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": ACTIVATIONS["gelu_tanh"],
    "relu": F.relu,
    "softplus": F.softplus,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "sign": torch.sign,
    "not": torch.logical_not,
    "cast": lambda x, dtype: x.to(DTYPES[dtype]),
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.true_divide,
    "floor_div": torch.floor_divide,
    "mod": torch.remainder,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "xor": torch.logical_xor,
    "where": torch.where,
    "clamp": lambda x, low, high: torch.clamp(x, low, high),
    "gated": lambda gate, up, act: ACTIVATIONS[act](gate) * up,
    "reshape": lambda x, shape: torch.reshape(x, shape),
    "transpose": lambda x, perm: torch.permute(x, perm),
    "slice": lambda x, axis, start, stop, step: x.index_select(axis, torch.arange(start, stop, step)),
    "expand": lambda x, shape: x.expand(shape),
    "copy": torch.clone,
    "concat": lambda *parts, axis: torch.cat(parts, axis),
    "pad": pad,
    "flip": lambda x, axes: torch.flip(x, axes),
    "embedding": lambda table, ids: F.embedding(ids, table),
    "take_along": lambda x, index, axis: torch.gather(x, axis, index),
    "gather": lambda x, *indices, axis: x[(slice(None),) * axis + indices],
    "scatter": scatter,
    "linear": linear,
    "matmul": torch.matmul,
    "conv": conv,
    "pool": pool,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "add_layer_norm": lambda x, residual, *rest, eps: (
        x + residual,
        layer_norm(x + residual, rest[0], rest[1], eps),
    ),
    "add_rms_norm": lambda x, residual, weight, eps: (x + residual, rms_norm(x + residual, weight, eps=eps)),
    "sum": reduce(lambda x, axis: x.sum(axis, keepdim=True)),
    "mean": reduce(lambda x, axis: x.mean(axis, keepdim=True)),
    "max": reduce(lambda x, axis: x.amax(axis, keepdim=True)),
    "min": reduce(lambda x, axis: x.amin(axis, keepdim=True)),
    "prod": reduce(lambda x, axis: x.prod(axis, keepdim=True)),
    "any": reduce(lambda x, axis: x.any(axis, keepdim=True)),
    "all": reduce(lambda x, axis: x.all(axis, keepdim=True)),
    "cumsum": lambda x, axis: torch.cumsum(x, axis),
    "argmax": lambda x, axis, keepdims: torch.argmax(x, axis, keepdim=keepdims),
    "top_k": lambda x, k: tuple(torch.topk(x, k)),
    "softmax": lambda x, axis: torch.softmax(x, axis),
    "log_softmax": lambda x, axis: torch.log_softmax(x, axis),
    "attention": attention,
    "update_rows": lambda cache, new, position: torch.index_copy(
        cache, cache.ndim - 2, torch.arange(new.shape[-2]) + int(position), new
    ),
    "cache_mask": cache_mask,
    "rope": rope,
    "fitted_codes": fitted_codes,
    "fitted_scales": fitted_scales,
    "scales": scales,
    "expert_linear": expert_linear,
    "expert_linear_q": expert_linear_q,
    "narrow": narrow,
    "quantise": quantise,
    "linear_q": linear_q,
    "embedding_q": embedding_q,
}
