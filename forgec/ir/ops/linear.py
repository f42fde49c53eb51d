"""Matrix products and convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..op import Sample, op
from ..types import DType, TensorType
from .elementwise import ACTIVATIONS, activate
from .rules import broadcast_shapes, require, require_float, tensor

Array = np.ndarray
Types = Sequence[TensorType | None]


def _x(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def product_type(
    x: TensorType, weight: TensorType, bias: TensorType | None, residual: TensorType | None, act: str
) -> TensorType:
    """Of ``x`` times ``weight`` (out x in), after checks of what follows the product."""
    require(
        x.rank >= 1 and x.shape[-1] == weight.shape[1], f"x {x} and weight {weight} (out x in) do not fit"
    )
    result = TensorType(x.dtype, (*x.shape[:-1], weight.shape[0]))
    if bias is not None:
        require(bias == TensorType(x.dtype, (weight.shape[0],)), f"bias {bias} does not fit weight {weight}")
    if residual is not None:
        require(residual == result, f"residual {residual} must have the result's type {result}")
    require(act == "" or act in ACTIVATIONS, f"unknown activation {act!r}")
    require(not (act and residual is not None), "a product takes an activation or a residual, not both")
    return result


def _linear_rule(
    x: TensorType | None,
    weight: TensorType | None,
    bias: TensorType | None,
    residual: TensorType | None,
    *,
    act: str,
) -> TensorType:
    a, w = require_float(x, "x"), require_float(weight, "weight")
    require(w.rank == 2 and a.rank >= 1, f"linear needs x of rank 1 or more and weight of rank 2: {a}, {w}")
    require(a.dtype is w.dtype, f"element types differ: {a} and {w}")
    return product_type(a, w, bias, residual, act)


def _linear_flops(types: Types, results: Sequence[TensorType], attrs: Mapping[str, Any]) -> float:
    return 2.0 * results[0].numel * tensor(types[1]).shape[1]


@op(
    "linear",
    "x weight bias? residual?",
    rule=_linear_rule,
    attrs={"act": ""},
    inplace=(3,),
    flops=_linear_flops,
    aten=("aten.linear",),
    samples=lambda rng: [
        Sample((_x(rng, 2, 3, 8), _x(rng, 5, 8), None, None), {}),
        Sample((_x(rng, 3, 8), _x(rng, 5, 8), _x(rng, 5), None), {"act": "gelu"}),
        Sample((_x(rng, 3, 8), _x(rng, 5, 8), _x(rng, 5), _x(rng, 3, 5)), {}),
        Sample((_x(rng, 8), _x(rng, 8, 5).T, None, None), {"act": "relu"}),
    ],
)
def linear(x: Array, weight: Array, bias: Array | None, residual: Array | None, *, act: str) -> Array:
    """act(x @ weight.T + bias) + residual; weight is [out, in]."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ weight.T
    if bias is not None:
        rows += bias
    y = activate(rows, act).reshape(*x.shape[:-1], weight.shape[0])
    return y if residual is None else y + residual


def expert_type(x: TensorType | None, weight: TensorType, ids: TensorType | None, experts: int) -> TensorType:
    """Of rows times the weights of their experts, [experts x out, in]."""
    a, index = require_float(x, "x"), tensor(ids, "ids")
    require(a.rank == 2 and weight.rank == 2, f"x and weight must be matrices: {a}, {weight}")
    require(a.shape[1] == weight.shape[1], f"x {a} and weight {weight} (out x in) do not fit")
    fits = index.shape == a.shape[:1] and index.dtype in (DType.I64, DType.I32)
    require(fits, f"ids {index} must be one integer for each row of {a}")
    require(
        experts > 0 and weight.shape[0] % experts == 0,
        f"the rows of {weight} are not those of {experts} experts",
    )
    return TensorType(a.dtype, (a.shape[0], weight.shape[0] // experts))


def _expert_rule(
    x: TensorType | None, weight: TensorType | None, ids: TensorType | None, *, experts: int
) -> TensorType:
    w = require_float(weight, "weight")
    require(x is None or x.dtype is w.dtype, f"element types differ: {x} and {w}")
    return expert_type(x, w, ids, experts)


@op(
    "expert_linear",
    "x weight ids",
    rule=_expert_rule,
    attrs={"experts": 1},
    flops=_linear_flops,
    samples=lambda rng: [
        Sample((_x(rng, 6, 8), _x(rng, 15, 8), rng.integers(-3, 3, 6)), {"experts": 3}),
        Sample((_x(rng, 19, 5), _x(rng, 8, 5), rng.integers(0, 2, 19)), {"experts": 2}),
        Sample((_x(rng, 1, 9), _x(rng, 66, 9), np.array([1], np.int32)), {"experts": 2}),
    ],
)
def expert_linear(x: Array, weight: Array, ids: Array, *, experts: int) -> Array:
    """Each row of x times the weight of its expert: x[r] @ weight[ids[r]].T; weight has the [out, in] of
    all experts one after the other. An id below zero counts from the end, one out of range is an error."""
    return by_expert(x, weight, ids, experts)


def by_expert(x: Array, weight: Array, ids: Array, experts: int) -> Array:
    """Rows of x times the weights of their experts, [experts x out, in]."""
    weights = weight.reshape(experts, len(weight) // experts, x.shape[1])
    y = np.empty((len(x), weights.shape[1]), x.dtype)
    for expert in np.unique(ids):
        rows = ids == expert
        y[rows] = x[rows] @ weights[expert].T
    return y


def _matmul_rule(a: TensorType | None, b: TensorType | None) -> TensorType:
    left, right = require_float(a, "a"), require_float(b, "b")
    require(left.rank >= 2 and right.rank >= 2, f"matmul needs rank 2 or more: {left}, {right}")
    require(left.dtype is right.dtype, f"element types differ: {left} and {right}")
    require(left.shape[-1] == right.shape[-2], f"{left} and {right} do not multiply")
    batch = broadcast_shapes(left.shape[:-2], right.shape[:-2])
    return TensorType(left.dtype, (*batch, left.shape[-2], right.shape[-1]))


@op(
    "matmul",
    "a b",
    rule=_matmul_rule,
    flops=lambda types, results, attrs: 2.0 * results[0].numel * types[0].shape[-1],
    samples=lambda rng: [
        Sample((_x(rng, 2, 3, 4, 8), _x(rng, 1, 3, 8, 5)), {}),
        Sample((_x(rng, 4, 8), _x(rng, 5, 8).T), {}),
    ],
)
def matmul(a: Array, b: Array) -> Array:
    """Batched matrix product with broadcasting batch axes."""
    return a @ b


def _conv_rule(
    x: TensorType | None,
    weight: TensorType | None,
    bias: TensorType | None,
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> TensorType:
    a, w = require_float(x, "x"), require_float(weight, "weight")
    spatial = a.rank - 2
    require(spatial in (1, 2), f"conv takes x of rank 3 or 4, not {a}")
    require(w.rank == a.rank and a.dtype is w.dtype, f"weight {w} does not fit x {a}")
    require(
        len(stride) == len(padding) == len(dilation) == spatial,
        f"conv needs {spatial} strides, paddings, ...",
    )
    require(
        min(*stride, *dilation, *w.shape[2:]) >= 1, "strides, dilations and kernel sizes must be at least 1"
    )
    require(min(padding) >= 0, f"padding {list(padding)} must not be negative")
    require(
        groups >= 1 and w.shape[1] * groups == a.shape[1],
        f"weight {w} with {groups} groups does not fit x {a}",
    )
    require(w.shape[0] % groups == 0, f"{w.shape[0]} output channels do not divide into {groups} groups")
    if bias is not None:
        require(bias == TensorType(a.dtype, (w.shape[0],)), f"bias {bias} does not fit weight {w}")
    out = []
    for n, k, s, p, d in zip(a.shape[2:], w.shape[2:], stride, padding, dilation, strict=True):
        extent = d * (k - 1) + 1
        require(extent <= n + 2 * p, f"the kernel covers {extent}, more than the padded input {n + 2 * p}")
        out.append((n + 2 * p - extent) // s + 1)
    return TensorType(a.dtype, (a.shape[0], w.shape[0], *out))


def _conv_flops(types: Types, results: Sequence[TensorType], attrs: Mapping[str, Any]) -> float:
    return 2.0 * results[0].numel * math.prod(tensor(types[1]).shape[1:])


@op(
    "conv",
    "x weight bias?",
    rule=_conv_rule,
    attrs={"stride": (1,), "padding": (0,), "dilation": (1,), "groups": 1},
    flops=_conv_flops,
    samples=lambda rng: [
        Sample((_x(rng, 2, 4, 9), _x(rng, 6, 4, 3), _x(rng, 6)), {"stride": (2,), "padding": (1,)}),
        Sample((_x(rng, 1, 4, 9), _x(rng, 4, 1, 3), None), {"padding": (2,), "groups": 4}),
        Sample(
            (_x(rng, 1, 4, 8, 8), _x(rng, 6, 2, 3, 2), None),
            {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2},
        ),
    ],
)
def conv(
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Array:
    """1-d or 2-d cross-correlation with equal padding a side.

    x [batch, in, ...], weight [out, in/groups, ...], bias [out].
    """
    spatial = x.ndim - 2
    padded = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    extent = tuple(d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilation, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=tuple(range(2, x.ndim)))
    # windows: [batch, channel, *positions, *extent] -> strided positions, dilated taps
    index = (
        slice(None),
        slice(None),
        *(slice(None, None, s) for s in stride),
        *(slice(None, None, d) for d in dilation),
    )
    taps = windows[index]
    batch, positions = x.shape[0], taps.shape[2 : 2 + spatial]
    channels, outs = x.shape[1] // groups, weight.shape[0] // groups
    order = (0, *range(2, 2 + spatial), 1, *range(2 + spatial, 2 + 2 * spatial))
    depth = channels * math.prod(weight.shape[2:])
    columns = taps.transpose(order).reshape(batch, math.prod(positions), groups, depth)
    kernel = weight.reshape(groups, outs, depth)
    y = np.matmul(columns.transpose(0, 2, 1, 3), kernel.transpose(0, 2, 1))  # [batch, group, position, out]
    y = y.transpose(0, 1, 3, 2).reshape(batch, groups * outs, *positions)
    if bias is not None:
        y = y + bias.reshape(-1, *(1,) * spatial)
    return np.ascontiguousarray(y)
